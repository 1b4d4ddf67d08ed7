/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_KHO_ABI_KVM_H
#define _LINUX_KHO_ABI_KVM_H

#include <linux/types.h>
#include <linux/kho/abi/kexec_handover.h>

/**
 * DOC: Format of files of KVM
 *
 * The file of a VM is handed over as a &struct kvm_vm_luo_ser. A guest_memfd is
 * handed over as a &struct guest_memfd_luo_ser, whose array contains one &struct
 * memfd_luo_folio_ser for each of its folios, in the order of the file. All folios
 * have one page.
 *
 * A change of a structure requires another compatible string.
 */

/* The compatible string of the file of a VM. */
#define KVM_VM_LUO_FH_COMPATIBLE	"kvm-vm-v1"

/* The compatible string of a guest_memfd. */
#define GUEST_MEMFD_LUO_FH_COMPATIBLE	"guest-memfd-v1"

/**
 * struct kvm_vm_luo_ser - a VM
 * @kind: its type, which KVM_CREATE_VM takes: KVM_X86_DEFAULT_VM
 * @flags: 0
 */
struct kvm_vm_luo_ser {
	u64 kind;
	u64 flags;
} __packed;

/**
 * struct guest_memfd_luo_ser - a guest_memfd
 * @size: size of the file, in bytes
 * @flags: GUEST_MEMFD_FLAG_*; GUEST_MEMFD_FLAG_INIT_SHARED is set
 * @vm_token: token of the file of the VM in the same session
 * @nr_folios: number of folios, and of entries of the array
 * @folios: the array
 */
struct guest_memfd_luo_ser {
	u64 size;
	u64 flags;
	u64 vm_token;
	u64 nr_folios;
	struct kho_vmalloc folios;
} __packed;

#endif /* _LINUX_KHO_ABI_KVM_H */
