// SPDX-License-Identifier: GPL-2.0

/*
 * Access to KVM, which may be a module.
 */

#include <linux/err.h>
#include <linux/export.h>
#include <linux/rwsem.h>

#include "core.h"

/* Held for reading while an operation is called. */
static DECLARE_RWSEM(ops_lock);
static const struct kvm_liveupdate_ops *ops;

/**
 * kvm_liveupdate_register - allow files of KVM to be preserved
 * @new: the operations
 *
 * Return: 0, or -EBUSY if there are operations already.
 */
int kvm_liveupdate_register(const struct kvm_liveupdate_ops *new)
{
	guard(rwsem_write)(&ops_lock);
	if (ops)
		return -EBUSY;
	ops = new;
	return 0;
}
EXPORT_SYMBOL_FOR_MODULES(kvm_liveupdate_register, "kvm");

/**
 * kvm_liveupdate_unregister - end kvm_liveupdate_register()
 *
 * Waits for operations to return. There must be no files of KVM.
 */
void kvm_liveupdate_unregister(void)
{
	guard(rwsem_write)(&ops_lock);
	ops = NULL;
}
EXPORT_SYMBOL_FOR_MODULES(kvm_liveupdate_unregister, "kvm");

bool kvm_liveupdate_is_vm(struct file *file)
{
	guard(rwsem_read)(&ops_lock);
	return ops && ops->is_vm(file);
}

int kvm_liveupdate_vm_type(struct file *file, u64 *type)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->vm_type(file, type) : -ENODEV;
}

struct file *kvm_liveupdate_new_vm(u64 type)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->new_vm(type) : ERR_PTR(-ENODEV);
}

bool kvm_liveupdate_is_gmem(struct file *file)
{
	guard(rwsem_read)(&ops_lock);
	return ops && ops->is_gmem(file);
}

struct file *kvm_liveupdate_gmem_vm(struct file *file)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->gmem_vm(file) : NULL;
}

int kvm_liveupdate_freeze_gmem(struct file *file, u64 *flags)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->freeze_gmem(file, flags) : -ENODEV;
}

void kvm_liveupdate_thaw_gmem(struct file *file)
{
	guard(rwsem_read)(&ops_lock);
	if (ops)
		ops->thaw_gmem(file);
}

struct file *kvm_liveupdate_new_gmem(struct file *vm, u64 size, u64 flags)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->new_gmem(vm, size, flags) : ERR_PTR(-ENODEV);
}
