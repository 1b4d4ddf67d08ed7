// SPDX-License-Identifier: GPL-2.0-only

/*
 * Virtual machines whose files are preserved while the kernel is replaced by a
 * live update.
 *
 * The handlers of the files are virt/kvm/liveupdate/ and mm/memfd_luo/, which are
 * built in. They call the operations below.
 */

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>

#include "guest_memfd.h"
#include "kvm_liveupdate.h"
#include "liveupdate/core.h"

static int kvm_liveupdate_op_vm_type(struct file *file, u64 *type)
{
	struct kvm *kvm = file->private_data;

	if (kvm->vm_dead)
		return -EIO;
	/* Others have state that is not handed over, or encrypted memory */
	if (kvm->arch.vm_type != KVM_X86_DEFAULT_VM)
		return -EOPNOTSUPP;
	*type = kvm->arch.vm_type;
	return 0;
}

static struct file *kvm_liveupdate_op_new_vm(u64 type)
{
	static atomic_t count;
	char name[12];

	/* Instead of the number of the descriptor, which nobody knows yet */
	snprintf(name, sizeof(name), "luo%u",
		 (u16)atomic_inc_return_relaxed(&count));
	return kvm_create_vm_file(type, name);
}

static bool kvm_liveupdate_op_is_gmem(struct file *file)
{
	return kvm_gmem_file_kvm(file);
}

static struct file *kvm_liveupdate_op_gmem_vm(struct file *file)
{
	return get_file_active(&kvm_gmem_file_kvm(file)->file);
}

static struct file *kvm_liveupdate_op_new_gmem(struct file *vm, u64 size,
					       u64 flags)
{
	if (!file_is_kvm(vm) || size > MAX_LFS_FILESIZE)
		return ERR_PTR(-EINVAL);
	return kvm_gmem_create_file(vm->private_data, size, flags);
}

static const struct kvm_liveupdate_ops kvm_liveupdate_ops = {
	.is_vm = file_is_kvm,
	.vm_type = kvm_liveupdate_op_vm_type,
	.new_vm = kvm_liveupdate_op_new_vm,
	.is_gmem = kvm_liveupdate_op_is_gmem,
	.gmem_vm = kvm_liveupdate_op_gmem_vm,
	.freeze_gmem = kvm_gmem_freeze,
	.thaw_gmem = kvm_gmem_thaw,
	.new_gmem = kvm_liveupdate_op_new_gmem,
};

int kvm_liveupdate_init(void)
{
	return kvm_liveupdate_register(&kvm_liveupdate_ops);
}

void kvm_liveupdate_exit(void)
{
	kvm_liveupdate_unregister();
}
