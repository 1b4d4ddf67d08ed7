// SPDX-License-Identifier: GPL-2.0

//! Files of the device: those that were opened, and those that were retrieved.

use crate::device::{
    edu,
    regs,
    Claim,
    Edu,
    LENGTH, //
};
use core::mem::MaybeUninit;
use kernel::{
    anon_inode,
    fs::{
        File,
        Kiocb, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    kho::shared::SharedPage,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    mm::virt::VmaNew,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::{
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        SetOnce,
        UniqueArc, //
    }, //
};

/// The character device, which is built in and never unregistered.
static DEVICE: SetOnce<Pin<KBox<MiscDeviceRegistration<Device>>>> = SetOnce::new();

/// Registers the character device.
pub(crate) fn register() -> Result {
    let options = MiscDeviceOptions { name: c"rust_edu" };
    let device = MiscDeviceRegistration::register(options);
    DEVICE.populate(KBox::pin_init(device, GFP_KERNEL)?);
    Ok(())
}

/// Everything that a file needs except its buffer. Once this exists, no step
/// fails.
pub(crate) struct NewFile {
    edu: Claim,
    buffer: UniqueArc<MaybeUninit<SharedPage>>,
    file: KBox<MaybeUninit<EduFile>>,
}

impl NewFile {
    /// Fails with [`EBUSY`] if there is a file, [`ENOMEM`].
    pub(crate) fn new(edu: Arc<Edu>) -> Result<Self> {
        Ok(Self {
            edu: Claim::new(edu)?,
            buffer: UniqueArc::new_uninit(GFP_KERNEL)?,
            file: KBox::new_uninit(GFP_KERNEL)?,
        })
    }

    /// Creates the file. The device must not write to memory other than
    /// `buffer`.
    pub(crate) fn with(self, buffer: SharedPage) -> KBox<EduFile> {
        let file = EduFile {
            edu: self.edu,
            buffer: self.buffer.write(buffer).into(),
            keep: AtomicFlag::new(true),
        };
        KBox::write(self.file, file)
    }
}

/// The only file of a device, of either kind.
pub(crate) struct EduFile {
    pub(crate) edu: Claim,
    pub(crate) buffer: Arc<SharedPage>,
    /// Whether a live update preserves the device.
    pub(crate) keep: AtomicFlag,
}

impl EduFile {
    /// The file of a `struct file`; [`None`] for other files.
    pub(crate) fn of(file: &File) -> Option<&Self> {
        let opened = DEVICE.as_ref().and_then(|device| device.data(file));
        opened.or_else(|| anon_inode::data::<Retrieved>(file))
    }

    fn read(&self, pos: &mut i64, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let text = CString::try_from_fmt(fmt!("{}\n", self.edu.read(regs::FACTORIAL)?))?;
        iov.simple_read_from_buffer(pos, text.to_bytes())
    }

    fn write(&self, pos: &mut i64, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut buf = [0; 32];
        if iov.len() > buf.len() {
            return Err(EINVAL);
        }
        let len = iov.copy_from_iter(&mut buf);
        let text = buf.get(..len).ok_or(EINVAL)?;
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?.trim();
        let (order, value) = text.split_once(' ').unwrap_or((text, ""));
        let edu = &self.edu;
        match (order, value) {
            ("factorial", number) => {
                edu.write(regs::FACTORIAL, number.parse().map_err(|_| EINVAL)?)?;
                edu.wait_for(regs::STATUS, regs::COMPUTING)?;
            }
            ("send", "") => edu.copy(self.buffer.phys(), regs::MEMORY, 0)?,
            ("receive", "") => {
                let target = self.buffer.phys().wrapping_add(LENGTH);
                edu.copy(regs::MEMORY, target, regs::TO_RAM)?;
            }
            ("wait", "") => edu.wait_for(regs::DMA_COMMAND, regs::START)?,
            ("keep", "on") => self.keep.store(true, Relaxed),
            ("keep", "off") => self.keep.store(false, Relaxed),
            _ => return Err(EINVAL),
        }
        // The next read returns the new result.
        *pos = 0;
        Ok(len)
    }

    fn show(&self, m: &SeqFile) {
        let state = match self.edu.is_copying() {
            Ok(true) => "copying",
            Ok(false) => "idle",
            Err(_) => "gone",
        };
        seq_print!(m, "edu-dma:\t{}\n", state);
        seq_print!(m, "edu-interrupts:\t{}\n", self.edu.interrupts());
    }
}

impl Drop for EduFile {
    fn drop(&mut self) {
        if self.edu.wait_for(regs::DMA_COMMAND, regs::START).is_err() {
            dev_err!(self.edu.pdev, "does not stop, its buffer is lost\n");
            core::mem::forget(self.buffer.clone());
        }
    }
}

/// The character device.
struct Device;

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<EduFile>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<EduFile>> {
        let edu = edu()?;
        // It may write to memory of a file that is to be retrieved.
        if edu.pdev.is_handed_over() {
            return Err(EBUSY);
        }
        Ok(NewFile::new(edu)?.with(SharedPage::new()?))
    }

    fn mmap(edu: &EduFile, _file: &File, vma: &VmaNew) -> Result {
        edu.buffer.map(vma)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        kiocb.file().read(kiocb.ki_pos_mut(), iov)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        kiocb.file().write(kiocb.ki_pos_mut(), iov)
    }

    fn show_fdinfo(edu: &EduFile, m: &SeqFile, _file: &File) {
        edu.show(m);
    }
}

/// A retrieved file. It supports the same operations as a file of the device.
pub(crate) struct Retrieved;

#[vtable]
impl anon_inode::FileOperations for Retrieved {
    type Data = KBox<EduFile>;

    fn mmap(edu: &EduFile, _file: &File, vma: &VmaNew) -> Result {
        edu.buffer.map(vma)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Data>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        kiocb.file().read(kiocb.ki_pos_mut(), iov)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Data>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        kiocb.file().write(kiocb.ki_pos_mut(), iov)
    }

    fn show_fdinfo(edu: &EduFile, m: &SeqFile, _file: &File) {
        edu.show(m);
    }
}
