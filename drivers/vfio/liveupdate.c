// SPDX-License-Identifier: GPL-2.0-only

/*
 * Files of devices that keep working while the kernel is replaced by a live
 * update.
 */

#include <linux/anon_inodes.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "vfio.h"

MODULE_IMPORT_NS("IOMMUFD");

/**
 * vfio_cdev_file_device - get the device of a file
 * @file: any file
 *
 * Return: the device, or NULL if @file is not one of /dev/vfio/devices/.
 */
struct vfio_device *vfio_cdev_file_device(struct file *file)
{
	struct vfio_device_file *df;

	if (file->f_op != &vfio_device_fops)
		return NULL;
	df = file->private_data;
	return df->group ? NULL : df->device;
}
EXPORT_SYMBOL_GPL(vfio_cdev_file_device);

/**
 * vfio_cdev_file_is_bound - tell whether a file has opened its device
 * @file: a file for which vfio_cdev_file_device() returns a device
 *
 * Return: true after VFIO_DEVICE_BIND_IOMMUFD, which cannot be undone.
 */
bool vfio_cdev_file_is_bound(struct file *file)
{
	struct vfio_device_file *df = file->private_data;

	/* Paired with smp_store_release() in vfio_df_ioctl_bind_iommufd() */
	return smp_load_acquire(&df->access_granted);
}
EXPORT_SYMBOL_GPL(vfio_cdev_file_is_bound);

/**
 * vfio_cdev_getfile - create a file of a device that was handed over
 * @device: a device, with a driver
 *
 * The file is like one of /dev/vfio/devices/, and is the only one that can be
 * bound to an iommufd as long as the device is handed over.
 *
 * Return: the file, or ERR_PTR(): -ENODEV if the driver is being unbound,
 * -ENOMEM, -ENFILE.
 */
struct file *vfio_cdev_getfile(struct vfio_device *device)
{
	struct vfio_device_file *df;
	struct file *file;

	/* Paired with the put in vfio_device_fops_release() */
	if (!vfio_device_try_get_registration(device))
		return ERR_PTR(-ENODEV);

	df = vfio_allocate_device_file(device);
	if (IS_ERR(df)) {
		file = ERR_CAST(df);
		goto err_put;
	}
	df->retrieved = true;

	file = anon_inode_getfile("[vfio-device]", &vfio_device_fops, df,
				  O_RDWR);
	if (IS_ERR(file)) {
		kfree(df);
		goto err_put;
	}
	file->f_mode |= FMODE_PREAD | FMODE_PWRITE;
	/* As in vfio_device_fops_cdev_open() */
	file->f_mapping = device->inode->i_mapping;

	return file;

err_put:
	vfio_device_put_registration(device);
	return file;
}
EXPORT_SYMBOL_GPL(vfio_cdev_getfile);

/**
 * vfio_device_for_each_mapping - visit the memory that a device reaches
 * @device: a device that is bound to an iommufd, or not
 * @fn: see iommufd_device_for_each_mapping()
 * @data: argument of @fn
 *
 * Return: see iommufd_device_for_each_mapping().
 */
int vfio_device_for_each_mapping(struct vfio_device *device,
				 int (*fn)(struct file *file, u64 start,
					   u64 length, void *data),
				 void *data)
{
	int ret = 0;

	mutex_lock(&device->dev_set->lock);
	if (device->iommufd_device)
		ret = iommufd_device_for_each_mapping(device->iommufd_device,
						      fn, data);
	mutex_unlock(&device->dev_set->lock);
	return ret;
}
EXPORT_SYMBOL_GPL(vfio_device_for_each_mapping);
