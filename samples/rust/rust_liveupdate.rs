// SPDX-License-Identifier: GPL-2.0

//! Rust live update sample.
//!
//! A character device, `/dev/rust_liveupdate`. Each open file has a new number, which can be
//! written and read as text. A file of the device can be preserved: after a live update, the
//! retrieved file has the last number.
//!
//! A file can depend on another one: after `7 of 3` was written to it, it needs the file of its
//! session with token 3. After a live update, `/proc/PID/fdinfo/FD` shows the number of that file
//! as well.
//!
//! The sample can be a module, which must be loaded before files are preserved and, in the next
//! kernel, before they are retrieved.
//!
//! All files share a generation, which `/proc/PID/fdinfo/FD` shows. It is the number of live
//! updates since the first file was preserved.
//!
//! In a program, with the ioctls of `<linux/liveupdate.h>`:
//!
//! ```text
//! int fd = open("/dev/rust_liveupdate", O_RDWR);
//! write(fd, "42", 2);
//! int luo = open("/dev/liveupdate", O_RDWR);
//! ioctl(luo, LIVEUPDATE_IOCTL_CREATE_SESSION, &create);       // create.name = "sample"
//! ioctl(create.fd, LIVEUPDATE_SESSION_PRESERVE_FD, &preserve); // .fd = fd, .token = 1
//! // kexec
//! int luo = open("/dev/liveupdate", O_RDWR);
//! ioctl(luo, LIVEUPDATE_IOCTL_RETRIEVE_SESSION, &retrieve);   // retrieve.name = "sample"
//! ioctl(retrieve.fd, LIVEUPDATE_SESSION_RETRIEVE_FD, &file);  // file.token = 1
//! read(file.fd, ..);                                          // "42\n"
//! ioctl(retrieve.fd, LIVEUPDATE_SESSION_FINISH, &finish);
//! ```

#![deny(unsafe_code)]

use kernel::{
    anon_inode,
    fs::{
        file::flags,
        File,
        Kiocb, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    kho::Claimed,
    liveupdate::{
        flb::{
            Flb,
            Instance, //
        },
        session::{
            IncomingSession,
            OutgoingSession,
            Token, //
        },
        FileHandler,
        Registration,
        RetrieveError, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

module! {
    type: RustLiveupdate,
    name: "rust_liveupdate",
    authors: ["Rust for Linux Contributors"],
    description: "Rust live update sample",
    license: "GPL",
}

/// The number of live updates since the first file was preserved.
static GENERATION: Atomic<u64> = Atomic::new(0);

/// The state of a file.
struct Number {
    value: Atomic<u64>,
    /// The token of the file on which this one depends; 0 if there is none.
    other: Atomic<Token>,
    /// The file on which this one depends, after it was retrieved.
    retrieved: Option<ARef<File>>,
}

impl Number {
    fn new(value: u64, other: Token, retrieved: Option<ARef<File>>) -> Result<KBox<Self>> {
        let number = Self {
            value: Atomic::new(value),
            other: Atomic::new(other),
            retrieved,
        };
        Ok(KBox::new(number, GFP_KERNEL)?)
    }

    fn read(&self, pos: &mut i64, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let text = CString::try_from_fmt(fmt!("{}\n", self.value.load(Relaxed)))?;
        iov.simple_read_from_buffer(pos, text.to_bytes())
    }

    fn write(&self, pos: &mut i64, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut buf = [0; 32];
        if iov.len() > buf.len() {
            return Err(EINVAL);
        }
        let len = iov.copy_from_iter(&mut buf);
        let text = buf.get(..len).ok_or(EINVAL)?;
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        let (value, other) = text.split_once(" of ").unwrap_or((text, "0"));
        // PANIC: The overflow checks that this adds to the object file are those of `core`, whose
        // parser either needs no check for a number of this length, or checks the arithmetic
        // itself.
        let value = value.trim().parse().map_err(|_| EINVAL)?;
        let other = other.trim().parse().map_err(|_| EINVAL)?;
        self.value.store(value, Relaxed);
        self.other.store(other, Relaxed);
        // The next read returns the new number.
        *pos = 0;
        Ok(len)
    }

    fn show(&self, m: &SeqFile) {
        seq_print!(m, "generation:\t{}\n", GENERATION.load(Relaxed));
        seq_print!(m, "number:\t{}\n", self.value.load(Relaxed));
        let other = self.retrieved.as_deref();
        if let Some(other) = other.and_then(anon_inode::data::<Retrieved>) {
            seq_print!(m, "other:\t{}\n", other.value.load(Relaxed));
        }
    }
}

/// The device and its files.
struct Device;

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<Number>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Number>> {
        Number::new(0, 0, None)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        kiocb.file().read(kiocb.ki_pos_mut(), iov)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        kiocb.file().write(kiocb.ki_pos_mut(), iov)
    }

    fn show_fdinfo(number: &Number, m: &SeqFile, _file: &File) {
        number.show(m);
    }
}

/// A retrieved file. It supports the same operations as a file of the device.
struct Retrieved;

#[vtable]
impl anon_inode::FileOperations for Retrieved {
    type Data = KBox<Number>;

    fn read_iter(mut kiocb: Kiocb<'_, Self::Data>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        kiocb.file().read(kiocb.ki_pos_mut(), iov)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Data>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        kiocb.file().write(kiocb.ki_pos_mut(), iov)
    }

    fn show_fdinfo(number: &Number, m: &SeqFile, _file: &File) {
        number.show(m);
    }
}

/// The data that is handed over for a file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NumberSer {
    value: u64,
    /// The token of the file on which this one depends; 0 if there is none.
    other: Token,
}

/// Preserves files of the device, and retrieved files.
struct Handler {
    device: Arc<MiscDeviceRegistration<Device>>,
}

impl Handler {
    /// Returns the number of a file; [`None`] for files that this handler does not support.
    fn number<'a>(&self, file: &'a File) -> Option<&'a Number> {
        let opened = self.device.data(file);
        opened.or_else(|| anon_inode::data::<Retrieved>(file))
    }
}

kernel::declare_compatible!(<Handler as FileHandler>::COMPATIBLE);

#[vtable]
impl FileHandler for Handler {
    const COMPATIBLE: &'static CStr = c"rust-sample-number-v2";

    type Ser = NumberSer;
    // There is nothing to wait for.
    type Prepared = ();
    // Nothing was changed that would have to be undone.
    type Outgoing = ();
    type Incoming = Claimed<NumberSer>;

    fn can_preserve(&self, file: &File) -> bool {
        self.number(file).is_some()
    }

    fn preserve(
        &self,
        file: &File,
        _prepared: &mut (),
        ser: &mut NumberSer,
        session: &OutgoingSession<'_>,
    ) -> Result {
        // The number can still change, but not on which file it depends.
        ser.other = self.number(file).ok_or(EINVAL)?.other.load(Relaxed);
        if ser.other != 0 {
            session.file(ser.other)?;
        }
        Ok(())
    }

    fn freeze(&self, file: &File, ser: &mut NumberSer, _outgoing: &mut ()) -> Result {
        ser.value = self.number(file).ok_or(EINVAL)?.value.load(Relaxed);
        Ok(())
    }

    fn adopt(&self, ser: Claimed<NumberSer>) -> Self::Incoming {
        ser
    }

    fn retrieve(
        &self,
        ser: &mut Claimed<NumberSer>,
        session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        // Restores the generation, if this is the first file.
        drop(GENERATION_FLB.incoming()?);
        let other = match ser.other {
            0 => None,
            token => Some(session.file(token)?),
        };
        let number = Number::new(ser.value, ser.other, other)?;
        let file = anon_inode::getfile::<Retrieved>(c"[rust_liveupdate]", number, flags::O_RDWR)?;
        Ok(file)
    }
}

/// The data that is handed over for all files together.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct GenerationSer {
    generation: u64,
}

struct Generation;

static GENERATION_FLB: Instance<Generation> = Instance::new();

kernel::declare_compatible!(<Generation as Flb>::COMPATIBLE);

#[vtable]
impl Flb for Generation {
    const COMPATIBLE: &'static CStr = c"rust-sample-generation-v1";

    type Ser = GenerationSer;
    type Outgoing = ();
    type Incoming = ();

    fn preserve(ser: &mut GenerationSer) -> Result {
        ser.generation = GENERATION.load(Relaxed).saturating_add(1);
        Ok(())
    }

    fn retrieve(ser: Claimed<GenerationSer>) -> Result {
        GENERATION.store(ser.generation, Relaxed);
        Ok(())
    }
}

/// The sample, as a module or built in. Unloading the module drops the fields in this order.
struct RustLiveupdate {
    /// [`None`] without live updates.
    _handler: Option<Pin<KBox<Registration<Handler>>>>,
    _device: Arc<MiscDeviceRegistration<Device>>,
}

impl kernel::Module for RustLiveupdate {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let options = MiscDeviceOptions {
            name: c"rust_liveupdate",
        };
        let device = Arc::pin_init(MiscDeviceRegistration::register(options), GFP_KERNEL)?;
        // This is the last step, since files can be preserved from then on.
        let handler = if kernel::liveupdate::is_enabled() {
            Some(register(device.clone())?)
        } else {
            None
        };
        Ok(Self {
            _handler: handler,
            _device: device,
        })
    }
}

/// Registers the handler, whose files depend on the generation.
fn register(
    device: Arc<MiscDeviceRegistration<Device>>,
) -> Result<Pin<KBox<Registration<Handler>>>> {
    let registration = KBox::pin_init(Registration::new(Handler { device }), GFP_KERNEL)?;
    GENERATION_FLB.attach(registration.as_ref())?;
    Ok(registration)
}
