// SPDX-License-Identifier: GPL-2.0
/*
 * Hand over the calibration of timers to the next kernel.
 *
 * Calibrating the timer of the local APIC and the delay loop takes a tenth of a
 * second each, and more with many processors. This adds to the blackout of a
 * live update, although the machine is the same.
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
#include <linux/notifier.h>
#include <linux/reboot.h>

#include <asm/apic.h>
#include <asm/time.h>
#include <asm/tsc.h>

#define KHO_TIMERS_NAME "x86-timers"
#define KHO_TIMERS_VERSION 1

/**
 * struct kho_timers - results of calibrations that are handed over
 * @version: KHO_TIMERS_VERSION
 * @hz: jiffies in a second, on which the other values depend
 * @lapic_timer_period: ticks of the timer of the local APIC in a jiffy, or 0
 * @tsc_khz: frequency of the TSC, or 0
 * @loops_per_jiffy: delay loops in a jiffy
 */
struct kho_timers {
	u32 version;
	u32 hz;
	u32 lapic_timer_period;
	u32 tsc_khz;
	u64 loops_per_jiffy;
};

/*
 * Limits of valid values. A value out of range was not measured, and checking
 * it would take long.
 */
#define KHO_TIMERS_MIN_HZ	1000000ULL
#define KHO_TIMERS_MAX_HZ	20000000000ULL

static bool __init kho_timers_plausible(u64 hz)
{
	return hz >= KHO_TIMERS_MIN_HZ && hz <= KHO_TIMERS_MAX_HZ;
}

/* Delay loops in a jiffy, or 0. */
static unsigned long handed_over_lpj __initdata;

static unsigned long handed_over_tsc_khz __initdata;

static bool lapic_period_was_handed_over __initdata;

/**
 * kho_timers_init - use the calibration of the previous kernel
 *
 * Called before timers are calibrated. Only unknown values are calibrated
 * afterwards.
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
		pr_warn("the handed over periods of timers are damaged\n");
		return;
	}

	timers = phys_to_virt(phys);
	if (timers->version != KHO_TIMERS_VERSION || timers->hz != HZ)
		return;

	/* The calibration has the same lower limit. */
	if (!lapic_timer_period &&
	    kho_timers_plausible((u64)timers->lapic_timer_period * HZ)) {
		lapic_timer_period = timers->lapic_timer_period;
		lapic_period_was_handed_over = true;
	}
	if (timers->loops_per_jiffy <= KHO_TIMERS_MAX_HZ / HZ &&
	    kho_timers_plausible(timers->loops_per_jiffy * HZ))
		handed_over_lpj = timers->loops_per_jiffy;
	if (kho_timers_plausible(timers->tsc_khz * 1000ULL))
		handed_over_tsc_khz = timers->tsc_khz;
}

/**
 * kho_timers_have_lapic_period - whether lapic_timer_period was handed over
 *
 * If so, the period must be checked: a virtual machine may have been migrated.
 */
bool __init kho_timers_have_lapic_period(void)
{
	return lapic_period_was_handed_over;
}

/**
 * kho_timers_tsc_khz - how fast the TSC was
 *
 * Called if the frequency is not known and calibrating it takes long. The
 * caller must check the value: a virtual machine may have been migrated.
 *
 * Return: frequency in kHz, or 0 if it is not known.
 */
unsigned long __init kho_timers_tsc_khz(void)
{
	return handed_over_tsc_khz;
}

/**
 * kho_timers_init_delay - set the delay loop without calibration
 *
 * Called when the frequency of the TSC is known. If delay loops use the TSC,
 * its frequency must not have changed: a virtual machine may have been
 * migrated. A kernel parameter has priority.
 */
void __init kho_timers_init_delay(void)
{
	if (preset_lpj || !handed_over_lpj)
		return;

	if (lpj_fine && abs_diff(lpj_fine, handed_over_lpj) > lpj_fine / 16)
		return;

	preset_lpj = handed_over_lpj;
}

/* The values for the next kernel. */
static struct kho_timers *outgoing;

/*
 * The frequency of the TSC is refined while the kernel runs: use the last
 * value.
 */
static int kho_timers_reboot(struct notifier_block *nb, unsigned long action,
			     void *data)
{
	outgoing->tsc_khz = check_tsc_unstable() ? 0 : tsc_khz;
	return NOTIFY_DONE;
}

static struct notifier_block kho_timers_reboot_nb = {
	.notifier_call = kho_timers_reboot,
};

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
		.tsc_khz = check_tsc_unstable() ? 0 : tsc_khz,
		/* A calculated value is more precise than a measured one. */
		.loops_per_jiffy = preset_lpj ?: lpj_fine ?: loops_per_jiffy,
	};

	err = kho_add_subtree(KHO_TIMERS_NAME, timers, sizeof(*timers));
	if (err) {
		kho_unpreserve_free(timers);
		return err;
	}

	outgoing = timers;
	return register_reboot_notifier(&kho_timers_reboot_nb);
}
late_initcall(kho_timers_hand_over);
