// SPDX-License-Identifier: GPL-2.0

//! Files and devices of vfio-pci.
//!
//! This is the only module of the crate with `unsafe` code.
//!
//! C header: `drivers/vfio/pci/liveupdate/core.h`

use crate::abi::{
    VfioPci,
    CONFIG, //
};
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::File,
    pci::{
        self,
        liveupdate::Address, //
    },
    prelude::*,
    sync::aref::ARef, //
};

static_assert!(CONFIG == bindings::VFIO_PCI_LIVEUPDATE_CONFIG as usize);

/// A file of vfio-pci, and its device.
pub(crate) struct VfioFile<'a> {
    file: &'a File,
    device: ARef<pci::Device>,
}

impl<'a> VfioFile<'a> {
    /// Returns [`None`] for other files.
    pub(crate) fn of(file: &'a File) -> Option<Self> {
        // SAFETY: The file is valid.
        let raw = unsafe { bindings::vfio_pci_liveupdate_get_device(file.as_ptr()) };
        let raw = NonNull::new(raw)?.cast::<pci::Device>();
        // SAFETY: The callee returns a valid device with a reference; `pci::Device` is a transparent
        // wrapper.
        let device = unsafe { ARef::from_raw(raw) };
        Some(Self { file, device })
    }

    /// The device.
    pub(crate) fn device(&self) -> &pci::Device {
        &self.device
    }

    /// Checks whether the file can be preserved.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver does not take over devices, or the device has an IOMMU; [`EINVAL`]
    /// if the file is not bound to an iommufd.
    pub(crate) fn check(&self) -> Result {
        // SAFETY: The file is valid, and one of vfio-pci.
        to_result(unsafe { bindings::vfio_pci_liveupdate_check_file(self.file.as_ptr()) })
    }

    /// Calls `visit` for each mapping of the memory that the device reaches, with the file of the memory
    /// and the bytes of the file, or [`None`] if it has no file. `visit` must not map or unmap memory.
    ///
    /// # Errors
    ///
    /// Errors of `visit`; [`EBUSY`] if a mapping is being changed.
    pub(crate) fn for_each_mapping<F>(&self, visit: F) -> Result
    where
        F: FnMut(Option<&File>, Range<u64>) -> Result,
    {
        /// # Safety
        ///
        /// `data` must point to the closure, which must not be used otherwise; `file` must be null
        /// or valid.
        unsafe extern "C" fn call<F>(
            file: *mut bindings::file,
            start: u64,
            length: u64,
            data: *mut c_void,
        ) -> c_int
        where
            F: FnMut(Option<&File>, Range<u64>) -> Result,
        {
            // SAFETY: By the safety requirements.
            let visit = unsafe { &mut *data.cast::<F>() };
            // SAFETY: By the safety requirements. The caller does not hold a file's position lock.
            let file = NonNull::new(file).map(|file| unsafe { File::from_raw_file(file.as_ptr()) });
            match visit(file, start..start.saturating_add(length)) {
                Ok(()) => 0,
                Err(err) => err.to_errno(),
            }
        }

        let mut visit = visit;
        // SAFETY: The file is valid, and one of vfio-pci, and bound if it was checked; `call` gets the
        // closure, and valid files.
        to_result(unsafe {
            bindings::vfio_pci_liveupdate_visit_mappings(
                self.file.as_ptr(),
                Some(call::<F>),
                (&raw mut visit).cast(),
            )
        })
    }

    /// Copies the configuration space as user space reads it. Returns its size, and whether the
    /// device can be reset. The file must have passed [`Self::check`] since it was bound.
    ///
    /// # Errors
    ///
    /// Those of [`Self::check`].
    pub(crate) fn save(&self, config: &mut [u8; CONFIG]) -> Result<(u16, bool)> {
        // The configuration exists once the file is bound.
        self.check()?;
        let mut state = bindings::vfio_pci_liveupdate_state {
            config: config.as_mut_ptr(),
            ..Default::default()
        };
        // SAFETY: The file is bound, and `config` has the size that the callee expects.
        to_result(unsafe {
            bindings::vfio_pci_liveupdate_save_state(self.file.as_ptr(), &mut state)
        })?;
        Ok((state.cfg_size, state.reset_works))
    }
}

/// Creates a file for a device that was handed over, with the state that it had.
///
/// # Errors
///
/// [`ENODEV`] if vfio-pci is not bound to the device, or the device was silenced; [`ENOMEM`],
/// [`ENFILE`].
pub(crate) fn create_file(address: Address, vfio: &VfioPci<'_>) -> Result<ARef<File>> {
    let state = bindings::vfio_pci_liveupdate_state {
        reset_works: vfio.reset_works,
        cfg_size: vfio.cfg_size,
        // The callee only reads.
        config: vfio.config.as_ptr().cast_mut(),
    };
    // SAFETY: By the type of `vfio`, `config` has at least `cfg_size` bytes.
    let file =
        unsafe { bindings::vfio_pci_liveupdate_create_file(address.domain, address.bdf, &state) };
    let file = NonNull::new(from_err_ptr(file)?).ok_or(EIO)?;
    // SAFETY: The callee returns a reference to a new file, which is not in any descriptor table yet, so
    // that there are no `fdget_pos` calls on it.
    Ok(unsafe { ARef::from_raw(file.cast()) })
}
