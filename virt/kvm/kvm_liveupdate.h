/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_LIVEUPDATE_H__
#define __KVM_LIVEUPDATE_H__

#ifdef CONFIG_KVM_LIVEUPDATE
int kvm_liveupdate_init(void);
void kvm_liveupdate_exit(void);
#else
static inline int kvm_liveupdate_init(void)
{
	return 0;
}

static inline void kvm_liveupdate_exit(void)
{
}
#endif /* CONFIG_KVM_LIVEUPDATE */

#endif /* __KVM_LIVEUPDATE_H__ */
