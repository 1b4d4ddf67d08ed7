/* SPDX-License-Identifier: GPL-2.0 */

/*
 * Functions that vfio-pci and the handler of its files provide to each other.
 * The handler is built in, and vfio-pci may be a module that is loaded later,
 * or never.
 */
#ifndef _DRIVERS_VFIO_PCI_LIVEUPDATE_CORE_H
#define _DRIVERS_VFIO_PCI_LIVEUPDATE_CORE_H

#include <linux/types.h>

struct file;
struct pci_dev;

/* The maximum number of bytes of configuration space. */
#define VFIO_PCI_LIVEUPDATE_CONFIG	4096

/**
 * struct vfio_pci_liveupdate_state - what one kernel hands over to the next
 * @reset_works: whether the device can be reset
 * @cfg_size:    bytes of @config, %VFIO_PCI_LIVEUPDATE_CONFIG at most
 * @config:      the configuration space as user space reads it; it has room for
 *               %VFIO_PCI_LIVEUPDATE_CONFIG bytes
 */
struct vfio_pci_liveupdate_state {
	bool reset_works;
	u16 cfg_size;
	u8 *config;
};

/**
 * struct vfio_pci_liveupdate_ops - operations of vfio-pci
 * @device:           Returns the device of a file, or NULL for other files.
 * @check:            Returns 0 if a file with a device can be preserved,
 *                    -EOPNOTSUPP, or -EINVAL if it is not bound to an iommufd.
 * @for_each_mapping: Calls a function for all memory that the device of a file
 *                    reaches, with the file of the memory and the bytes of the
 *                    file, or NULL if it has none. Returns what the function
 *                    returns, if not 0.
 * @save:             Saves the state of the device of a file that is bound.
 * @getfile:          Creates a file for a device with this address and state,
 *                    which was handed over. ERR_PTR(-ENODEV) if the device has
 *                    another driver, or none.
 */
struct vfio_pci_liveupdate_ops {
	struct pci_dev *(*device)(struct file *file);
	int (*check)(struct file *file);
	int (*for_each_mapping)(struct file *file,
				int (*fn)(struct file *memory, u64 start,
					  u64 length, void *data),
				void *data);
	void (*save)(struct file *file,
		     struct vfio_pci_liveupdate_state *state);
	struct file *(*getfile)(u32 domain, u16 bdf,
				const struct vfio_pci_liveupdate_state *state);
};

/* Called by vfio-pci. */
int vfio_pci_liveupdate_register(const struct vfio_pci_liveupdate_ops *ops);
void vfio_pci_liveupdate_unregister(void);

/* Called by the handler; without vfio-pci, there are no files. */
struct pci_dev *vfio_pci_liveupdate_get_device(struct file *file);
int vfio_pci_liveupdate_check_file(struct file *file);
int vfio_pci_liveupdate_visit_mappings(struct file *file,
				       int (*fn)(struct file *memory,
						 u64 start, u64 length,
						 void *data),
				       void *data);
int vfio_pci_liveupdate_save_state(struct file *file,
				   struct vfio_pci_liveupdate_state *state);
struct file *
vfio_pci_liveupdate_create_file(u32 domain, u16 bdf,
				const struct vfio_pci_liveupdate_state *state);

#endif /* _DRIVERS_VFIO_PCI_LIVEUPDATE_CORE_H */
