// SPDX-License-Identifier: GPL-2.0

//! Devices of user space (vfio-pci) that keep working while the kernel is replaced by a live
//! update.
//!
//! A file of `/dev/vfio/devices/` is preserved together with its device: neither kernel stops or resets
//! it. The memory that it reaches must be files of the same session, which the next kernel leaves where
//! they are until they are finished. In the next kernel, user space binds the retrieved file to an
//! iommufd as if it had opened it; the device is as it was. If that does not happen before the session
//! is finished, the device is silenced.
//!
//! | module        | subject                                      |
//! |---------------|----------------------------------------------|
//! | [`abi`]       | the format of handed over data               |
//! | [`handler`]   | the handler of files                         |
//! | [`ops`]       | vfio-pci, which may be a module              |
//!
//! Not supported: devices with an IOMMU, whose page tables are not handed over. User space sets up
//! interrupts again.

#![deny(unsafe_code)]

mod abi;
mod handler;
#[expect(unsafe_code, reason = "calls vfio-pci")]
mod ops;

kernel::builtin_crate!(c"vfio_pci_liveupdate");
