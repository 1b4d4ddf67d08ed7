// SPDX-License-Identifier: GPL-2.0
/*
 * What was found out about timers, for the kernel that is started by kexec.
 *
 * To see how fast the timer of the local APIC and the delay loop are takes a
 * tenth of a second each, and more with many processors. Whoever goes on in the
 * next kernel has to wait for that, though the machine is still the same.
 */

#define pr_fmt(fmt) "KHO: timers: " fmt

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/kexec_handover.h>
#include <linux/math.h>
#include <linux/memblock.h>

#include <asm/apic.h>
#include <asm/time.h>

#define KHO_TIMERS_NAME "x86-timers"
#define KHO_TIMERS_VERSION 1

/**
 * struct kho_timers - results of calibrations, as they are handed over
 * @version: KHO_TIMERS_VERSION
 * @hz: length of a jiffy, which the other values depend on
 * @lapic_timer_period: ticks of the timer of the local APIC in a jiffy, or 0
 * @reserved: 0
 * @loops_per_jiffy: delay loops in a jiffy
 */
struct kho_timers {
	u32 version;
	u32 hz;
	u32 lapic_timer_period;
	u32 reserved;
	u64 loops_per_jiffy;
};

/* Delay loops in a jiffy, or 0. */
static unsigned long handed_over_lpj __initdata;

/**
 * kho_timers_init - use what the previous kernel found out
 *
 * Called before timers are calibrated, which is then done for those that are
 * not known.
 */
void __init kho_timers_init(void)
{
	const struct kho_timers *timers;
	phys_addr_t phys;
	size_t size;

	if (kho_retrieve_subtree(KHO_TIMERS_NAME, &phys, &size))
		return;

	if (size < sizeof(*timers) || !IS_ALIGNED(phys, __alignof__(*timers)) ||
	    !memblock_is_region_memory(phys, sizeof(*timers))) {
		pr_warn("what was handed over is damaged\n");
		return;
	}

	timers = phys_to_virt(phys);
	if (timers->version != KHO_TIMERS_VERSION || timers->hz != HZ)
		return;

	/* The limit is that of the calibration. */
	if (!lapic_timer_period && timers->lapic_timer_period >= 1000000 / HZ)
		lapic_timer_period = timers->lapic_timer_period;
	handed_over_lpj = timers->loops_per_jiffy;
}

/**
 * kho_timers_init_delay - do not measure how fast the delay loop is
 *
 * Called when the frequency of the TSC is known. If it is the TSC that delay
 * loops wait for, it has to be as fast as it was: a virtual machine may have
 * moved meanwhile. A parameter has priority.
 */
void __init kho_timers_init_delay(void)
{
	if (preset_lpj || !handed_over_lpj)
		return;

	if (lpj_fine && abs_diff(lpj_fine, handed_over_lpj) > lpj_fine / 16)
		return;

	preset_lpj = handed_over_lpj;
}

static int __init kho_timers_hand_over(void)
{
	struct kho_timers *timers;
	int err;

	if (!kho_is_enabled())
		return 0;

	timers = kho_alloc_preserve(sizeof(*timers));
	if (IS_ERR(timers))
		return PTR_ERR(timers);

	*timers = (struct kho_timers) {
		.version = KHO_TIMERS_VERSION,
		.hz = HZ,
		.lapic_timer_period = lapic_timer_period,
		/* Calculated if possible, which is more precise than measured. */
		.loops_per_jiffy = preset_lpj ?: lpj_fine ?: loops_per_jiffy,
	};

	err = kho_add_subtree(KHO_TIMERS_NAME, timers, sizeof(*timers));
	if (err)
		kho_unpreserve_free(timers);

	return err;
}
late_initcall(kho_timers_hand_over);
