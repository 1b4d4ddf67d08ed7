/* SPDX-License-Identifier: GPL-2.0 */

/*
 * What KVM and the handlers of its files call of one another. The handlers are
 * built in, and KVM may be a module that is loaded later, or never.
 */
#ifndef _VIRT_KVM_LIVEUPDATE_CORE_H
#define _VIRT_KVM_LIVEUPDATE_CORE_H

#include <linux/types.h>

struct file;

/**
 * struct kvm_liveupdate_ops - operations of KVM
 * @is_vm:       Whether any file is that of a VM.
 * @vm_type:     Returns the type of the VM of a file, for KVM_CREATE_VM.
 *               -EOPNOTSUPP if VMs of this type cannot be preserved, -EIO if the
 *               VM does not work any more.
 * @new_vm:      Creates a VM, which belongs to the address space of the current
 *               task.
 * @is_gmem:     Whether any file is a guest_memfd.
 * @gmem_vm:     Returns the file of the VM of a guest_memfd, with a reference, or
 *               NULL if it is closed.
 * @freeze_gmem: See kvm_gmem_freeze().
 * @thaw_gmem:   See kvm_gmem_thaw().
 * @new_gmem:    Creates an empty guest_memfd for the VM of a file. ERR_PTR(-EINVAL)
 *               if that is no file of a VM, or the VM does not support the flags.
 */
struct kvm_liveupdate_ops {
	bool (*is_vm)(struct file *file);
	int (*vm_type)(struct file *file, u64 *type);
	struct file *(*new_vm)(u64 type);
	bool (*is_gmem)(struct file *file);
	struct file *(*gmem_vm)(struct file *file);
	int (*freeze_gmem)(struct file *file, u64 *flags);
	void (*thaw_gmem)(struct file *file);
	struct file *(*new_gmem)(struct file *vm, u64 size, u64 flags);
};

/* Called by KVM. */
int kvm_liveupdate_register(const struct kvm_liveupdate_ops *ops);
void kvm_liveupdate_unregister(void);

/* Called by the handlers; without KVM, there are no files. */
bool kvm_liveupdate_is_vm(struct file *file);
int kvm_liveupdate_vm_type(struct file *file, u64 *type);
struct file *kvm_liveupdate_new_vm(u64 type);
bool kvm_liveupdate_is_gmem(struct file *file);
struct file *kvm_liveupdate_gmem_vm(struct file *file);
int kvm_liveupdate_freeze_gmem(struct file *file, u64 *flags);
void kvm_liveupdate_thaw_gmem(struct file *file);
struct file *kvm_liveupdate_new_gmem(struct file *vm, u64 size, u64 flags);

#endif /* _VIRT_KVM_LIVEUPDATE_CORE_H */
