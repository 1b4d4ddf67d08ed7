// SPDX-License-Identifier: GPL-2.0

//! The ioctls of VFIO and iommufd.

use iommufd_bindings::{iommu_ioas_alloc, iommu_ioas_map, iommu_ioas_map_file, iommu_ioas_unmap};
use rustix::ioctl::{ioctl, opcode, Ioctl, IoctlOutput, Opcode};
use std::{
    ffi::{c_void, CStr},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};
use vfio_bindings::bindings::vfio::{
    vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd, vfio_region_info,
};

/// `struct vfio_irq_set` with one descriptor of an eventfd as its data.
#[repr(C)]
pub struct SetIrqs {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub start: u32,
    pub count: u32,
    pub eventfd: i32,
}

/// `struct iommu_ioas_noiommu_get_pa`, which the bindings do not have yet.
#[repr(C)]
#[derive(Default)]
pub struct GetPa {
    pub size: u32,
    pub flags: u32,
    pub ioas_id: u32,
    pub reserved: u32,
    pub iova: u64,
    pub length: u64,
    pub out_phys: u64,
}

/// The argument of an ioctl.
///
/// # Safety
///
/// The ioctl must read and write nothing beyond the type if the size in the first field is right.
pub unsafe trait Argument {
    /// The number of the ioctl; the type is `;`.
    const NUMBER: u8;
}

/// Implements [`Argument`] for structures of the user API.
macro_rules! arguments {
    ($($type:ty = $number:expr;)*) => { $(
        // SAFETY: include/uapi/linux/vfio.h and iommufd.h declare the ioctl of this number with this
        // structure.
        unsafe impl Argument for $type {
            const NUMBER: u8 = $number;
        }
    )* };
}

arguments! {
    vfio_region_info = 108;
    SetIrqs = 110;
    vfio_device_bind_iommufd = 118;
    vfio_device_attach_iommufd_pt = 119;
    iommu_ioas_alloc = 0x81;
    iommu_ioas_map = 0x85;
    iommu_ioas_unmap = 0x86;
    iommu_ioas_map_file = 0x8f;
    GetPa = 0x95;
}

struct Call<'a, T>(&'a mut T);

// SAFETY: The pointer is valid for reads and writes of the argument, and `Argument` asserts that the
// ioctl accesses nothing else.
unsafe impl<T: Argument> Ioctl for Call<'_, T> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::none(b';', T::NUMBER)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Calls the ioctl of `argument`, in which the size must be set.
pub fn call<T: Argument>(fd: impl AsFd, argument: &mut T) -> rustix::io::Result<()> {
    // SAFETY: See `Argument`.
    unsafe { ioctl(fd, Call(argument)) }
}

/// VFIO_GROUP_SET_CONTAINER, with an iommufd as the container.
pub fn set_container(group: impl AsFd, iommufd: impl AsFd) -> rustix::io::Result<()> {
    const SET_CONTAINER: u8 = 104;

    let mut fd = iommufd.as_fd().as_raw_fd();
    // SAFETY: The ioctl reads a descriptor.
    unsafe {
        ioctl(
            group,
            rustix::ioctl::Updater::<{ opcode::none(b';', SET_CONTAINER) }, RawFd>::new(&mut fd),
        )
    }
}

/// VFIO_GROUP_GET_DEVICE_FD: opens the device `name` of a group.
pub fn device_of_group(group: impl AsFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    struct GetDevice<'a>(&'a CStr);

    // SAFETY: The ioctl reads a string that ends with a null byte, and returns a new descriptor.
    unsafe impl Ioctl for GetDevice<'_> {
        type Output = OwnedFd;

        const IS_MUTATING: bool = false;

        fn opcode(&self) -> Opcode {
            opcode::none(b';', 106)
        }

        fn as_ptr(&mut self) -> *mut c_void {
            self.0.as_ptr().cast_mut().cast()
        }

        unsafe fn output_from_ptr(
            fd: IoctlOutput,
            _: *mut c_void,
        ) -> rustix::io::Result<Self::Output> {
            // SAFETY: The ioctl has returned a new descriptor, which nobody else knows.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
    }

    // SAFETY: The group's ioctl of this number is as described above.
    unsafe { ioctl(group, GetDevice(name)) }
}
