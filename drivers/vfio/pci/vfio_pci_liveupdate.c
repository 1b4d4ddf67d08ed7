// SPDX-License-Identifier: GPL-2.0-only

/*
 * PCI devices of user space that keep working while the kernel is replaced by a
 * live update.
 *
 * The handler of their files is drivers/vfio/pci/liveupdate/, which is built in.
 * It calls the operations below.
 */

#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pci_liveupdate.h>
#include <linux/slab.h>
#include <linux/vfio_pci_core.h>

#include "liveupdate/core.h"
#include "vfio_pci_priv.h"

/* The data that the previous kernel has handed over for a device */
struct vfio_pci_handed_over {
	bool reset_works;
	/* The device was taken over */
	bool used;
	u16 cfg_size;
	u8 config[] __counted_by(cfg_size);
};

static struct vfio_pci_core_device *vfio_pci_of_file(struct file *file)
{
	struct vfio_device *device = vfio_cdev_file_device(file);

	if (!device || device->ops->mmap != vfio_pci_core_mmap)
		return NULL;
	return container_of(device, struct vfio_pci_core_device, vdev);
}

static struct pci_dev *vfio_pci_liveupdate_device(struct file *file)
{
	struct vfio_pci_core_device *vdev = vfio_pci_of_file(file);

	return vdev ? vdev->pdev : NULL;
}

/* Only called for files with a device. */
static int vfio_pci_liveupdate_check(struct file *file)
{
	struct vfio_pci_core_device *vdev = vfio_pci_of_file(file);

	/* The next kernel would have to reset it */
	if (!to_pci_driver(vdev->pdev->dev.driver)->takes_over)
		return -EOPNOTSUPP;
	/* Page tables of an IOMMU are not handed over */
	if (!vdev->vdev.noiommu)
		return -EOPNOTSUPP;
	if (!vfio_cdev_file_is_bound(file))
		return -EINVAL;
	return 0;
}

/* Only called for files that are bound. */
static int vfio_pci_liveupdate_for_each_mapping(struct file *file,
						int (*fn)(struct file *memory,
							  u64 start, u64 length,
							  void *data),
						void *data)
{
	struct vfio_pci_core_device *vdev = vfio_pci_of_file(file);

	return vfio_device_for_each_mapping(&vdev->vdev, fn, data);
}

/* Only called for files that are bound. */
static void vfio_pci_liveupdate_save(struct file *file,
				     struct vfio_pci_liveupdate_state *state)
{
	struct vfio_pci_core_device *vdev = vfio_pci_of_file(file);

	state->reset_works = vdev->reset_works;
	state->cfg_size = min_t(int, vdev->pdev->cfg_size,
				VFIO_PCI_LIVEUPDATE_CONFIG);
	memcpy(state->config, vdev->vconfig, state->cfg_size);
}

static struct file *
vfio_pci_liveupdate_create(struct pci_dev *pdev,
			   const struct vfio_pci_liveupdate_state *state)
{
	struct vfio_pci_handed_over *handed_over;
	struct vfio_pci_core_device *vdev;
	struct file *file;

	device_lock_assert(&pdev->dev);

	/* The driver may come later, or the device was silenced */
	if (!pci_liveupdate_is_incoming(pdev) || !pdev->dev.driver ||
	    pdev->dev.driver->pm != &vfio_pci_core_pm_ops)
		return ERR_PTR(-ENODEV);
	vdev = dev_get_drvdata(&pdev->dev);
	/* There is a second description of the same device */
	if (vdev->handed_over)
		return ERR_PTR(-EBUSY);

	handed_over = kzalloc_flex(*handed_over, config, state->cfg_size);
	if (!handed_over)
		return ERR_PTR(-ENOMEM);
	handed_over->cfg_size = state->cfg_size;
	handed_over->reset_works = state->reset_works;
	memcpy(handed_over->config, state->config, state->cfg_size);

	file = vfio_cdev_getfile(&vdev->vdev);
	if (IS_ERR(file)) {
		kfree(handed_over);
		return file;
	}
	vdev->handed_over = handed_over;

	return file;
}

static struct file *
vfio_pci_liveupdate_getfile(u32 domain, u16 bdf,
			    const struct vfio_pci_liveupdate_state *state)
{
	struct pci_dev *pdev;
	struct file *file;

	pdev = pci_get_domain_bus_and_slot(domain, PCI_BUS_NUM(bdf),
					   bdf & 0xff);
	if (!pdev)
		return ERR_PTR(-ENODEV);
	device_lock(&pdev->dev);
	file = vfio_pci_liveupdate_create(pdev, state);
	device_unlock(&pdev->dev);
	pci_dev_put(pdev);
	return file;
}

static const struct vfio_pci_liveupdate_ops vfio_pci_liveupdate_ops = {
	.device = vfio_pci_liveupdate_device,
	.check = vfio_pci_liveupdate_check,
	.for_each_mapping = vfio_pci_liveupdate_for_each_mapping,
	.save = vfio_pci_liveupdate_save,
	.getfile = vfio_pci_liveupdate_getfile,
};

int vfio_pci_liveupdate_init(void)
{
	return vfio_pci_liveupdate_register(&vfio_pci_liveupdate_ops);
}

void vfio_pci_liveupdate_exit(void)
{
	vfio_pci_liveupdate_unregister();
}

void vfio_pci_liveupdate_release(struct vfio_pci_core_device *vdev)
{
	kfree(vdev->handed_over);
}

/* Returns whether the device that is being opened is working. */
bool vfio_pci_is_working(struct vfio_pci_core_device *vdev)
{
	return vdev->handed_over && !vdev->handed_over->used &&
	       pci_liveupdate_is_incoming(vdev->pdev);
}

/* Saves the state to restore when the device is closed; does not reset it. */
void vfio_pci_save_working(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;

	vdev->reset_works = vdev->handed_over->reset_works;
	pci_save_state(pdev);
	pdev->saved_config_space[PCI_COMMAND / 4] &= ~PCI_COMMAND_MASTER;
	vdev->pci_saved_state = pci_store_saved_state(pdev);
	if (!vdev->pci_saved_state)
		pci_dbg(pdev, "%s: Couldn't store saved state\n", __func__);
}

/* Restores the configuration space as user space has read it. */
static void vfio_pci_restore_config(struct vfio_pci_core_device *vdev)
{
	const struct vfio_pci_handed_over *from = vdev->handed_over;
	struct pci_dev *pdev = vdev->pdev;
	__le16 *flags;
	u16 cmd;

	memcpy(vdev->vconfig, from->config,
	       min_t(int, from->cfg_size, pdev->cfg_size));

	/* User space sets up interrupts again */
	if (pdev->msi_cap) {
		flags = (__le16 *)&vdev->vconfig[pdev->msi_cap + PCI_MSI_FLAGS];
		*flags &= ~cpu_to_le16(PCI_MSI_FLAGS_ENABLE);
	}
	if (pdev->msix_cap) {
		flags = (__le16 *)&vdev->vconfig[pdev->msix_cap +
						 PCI_MSIX_FLAGS];
		*flags &= ~cpu_to_le16(PCI_MSIX_FLAGS_ENABLE);
	}
	cmd = le16_to_cpu(*(__le16 *)&vdev->vconfig[PCI_COMMAND]);
	vdev->virq_disabled = cmd & PCI_COMMAND_INTX_DISABLE;
}

/*
 * Takes over a device that is working. The caller must not fail after this:
 * the device would not be stopped.
 */
int vfio_pci_take_over(struct vfio_pci_core_device *vdev)
{
	int ret;

	ret = pci_liveupdate_take_over(vdev->pdev);
	if (ret)
		return ret;
	vdev->handed_over->used = true;
	vdev->taken_over = true;
	vfio_pci_restore_config(vdev);
	return 0;
}
