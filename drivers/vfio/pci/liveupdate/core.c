// SPDX-License-Identifier: GPL-2.0

/*
 * Access to vfio-pci, which may be a module.
 */

#include <linux/err.h>
#include <linux/export.h>
#include <linux/pci.h>
#include <linux/rwsem.h>

#include "core.h"

/* Held for reading while an operation is called. */
static DECLARE_RWSEM(ops_lock);
static const struct vfio_pci_liveupdate_ops *ops;

/**
 * vfio_pci_liveupdate_register - allow files of vfio-pci to be preserved
 * @new: the operations
 *
 * Return: 0, or -EBUSY if there are operations already.
 */
int vfio_pci_liveupdate_register(const struct vfio_pci_liveupdate_ops *new)
{
	guard(rwsem_write)(&ops_lock);
	if (ops)
		return -EBUSY;
	ops = new;
	return 0;
}
EXPORT_SYMBOL_GPL(vfio_pci_liveupdate_register);

/**
 * vfio_pci_liveupdate_unregister - end vfio_pci_liveupdate_register()
 *
 * Waits for operations to return. There must be no files of vfio-pci.
 */
void vfio_pci_liveupdate_unregister(void)
{
	guard(rwsem_write)(&ops_lock);
	ops = NULL;
}
EXPORT_SYMBOL_GPL(vfio_pci_liveupdate_unregister);

/* The device of a file, with a reference, or NULL for other files. */
struct pci_dev *vfio_pci_liveupdate_get_device(struct file *file)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? pci_dev_get(ops->device(file)) : NULL;
}

int vfio_pci_liveupdate_check_file(struct file *file)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->check(file) : -ENODEV;
}

int vfio_pci_liveupdate_visit_mappings(struct file *file,
				       int (*fn)(struct file *memory,
						 u64 start, u64 length,
						 void *data),
				       void *data)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->for_each_mapping(file, fn, data) : -ENODEV;
}

int vfio_pci_liveupdate_save_state(struct file *file,
				   struct vfio_pci_liveupdate_state *state)
{
	guard(rwsem_read)(&ops_lock);
	if (!ops)
		return -ENODEV;
	ops->save(file, state);
	return 0;
}

struct file *
vfio_pci_liveupdate_create_file(u32 domain, u16 bdf,
				const struct vfio_pci_liveupdate_state *state)
{
	guard(rwsem_read)(&ops_lock);
	return ops ? ops->getfile(domain, bdf, state) : ERR_PTR(-ENODEV);
}
