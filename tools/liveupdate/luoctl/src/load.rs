// SPDX-License-Identifier: GPL-2.0

//! `luoctl load`.

mod refusal;

use crate::{
    boot::Boot,
    cli::{Cli, Exit, Failure, LoadOptions},
    image::{self, failed},
    output,
};
use liveupdate::raw;
use luo_check::{
    record::{self, Source},
    worst, Record, System, Verdict,
};
use refusal::Sizes;
use rustix::io::Errno;
use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::AsFd,
    path::{self, Path},
};

fn source(path: &Path, file: &File) -> Result<Source, Failure> {
    let metadata = file.metadata().map_err(|error| failed(path, error))?;
    let path = path::absolute(path).map_err(|error| failed(path, error))?;
    Ok(Source::new(&path, &metadata))
}

/// Restores the record of the previously loaded image after a failed load.
///
/// `start` is the number of images that could be loaded before it.
fn restore(system: &System, mut before: Record, start: Option<u32>, error: &io::Error) {
    let now = system.loads_left();
    let permitted = Errno::from_io_error(error) != Some(Errno::PERM);
    // Returns whether only this program has tried to load an image since then.
    let alone = now == start || (permitted && now == start.and_then(|left| left.checked_sub(1)));
    if before.loads_left == start && alone {
        before.loads_left = now;
    }
    if let Err(error) = before.write(&system.record) {
        output::warn(&format!("{}: {error}", system.record.display()));
    }
}

/// Loads an image, and writes a record of it.
fn load_and_record(
    cli: &Cli,
    boot: &Boot,
    sizes: Sizes,
    mut record: Record,
) -> Result<(), Failure> {
    let system = cli.system();
    let cmdline = CString::new(record.cmdline.as_str())
        .map_err(|_| Failure::new(Exit::Usage, "the command line contains a null byte"))?;
    let unpacked = image::unpacked(&record.source.path, boot.kernel())?;
    let before = system.record().ok().flatten();
    // Without it, later checks cannot know which image is loaded.
    let start = system.count_loads().ok();
    // At no time may the record describe another image than the loaded one.
    record::remove(&system.record).map_err(|error| failed(&system.record, error))?;
    let loaded = unpacked.as_ref().unwrap_or(boot.kernel());
    let initrd = boot.initrd.as_ref().map(AsFd::as_fd);
    if let Err(error) = raw::kexec_file_load(loaded.as_fd(), initrd, &cmdline) {
        // The previous image is still loaded.
        if let Some(before) = before {
            restore(&system, before, start, &error);
        }
        let name = record.source.path.display();
        let why = refusal::reason(&system, sizes, &error);
        let message = format!("the kernel cannot load {name}: {why}");
        return Err(Failure::new(Exit::Failed, message));
    }
    record.loads_left = system.loads_left();
    if record.loads_left != start.and_then(|left| left.checked_sub(1)) {
        let message = "another program loaded an image at the same time, and which one is loaded \
            now is not known; try again";
        return Err(failed(&record.source.path, message));
    }
    if source(&record.source.path, &boot.file)? != record.source {
        let _ = raw::kexec_file_unload();
        let message = "it was changed while it was loaded, and is not loaded; try again";
        return Err(failed(&record.source.path, message));
    }
    record.write(&system.record).map_err(|error| {
        failed(
            &system.record,
            format!("the image is loaded, but its record cannot be written: {error}"),
        )
    })
}

/// `luoctl load`.
pub fn load(cli: &Cli, options: &LoadOptions) -> Result<Exit, Failure> {
    let boot = Boot::find(cli, options)?;
    let name = boot.path.display();

    let source = source(&boot.path, &boot.file)?;
    let image = image::examine(&cli.system(), &boot.path, boot.kernel())?;
    let findings = image::findings(cli, &image, boot.initrd_len(), &boot.cmdline);
    image::show(cli, &findings);
    if worst(&findings) == Verdict::No && !options.force {
        return Err(Failure::new(
            Exit::No,
            format!(
                "{name} was not loaded: an update to it would lose data; --force loads it anyway"
            ),
        ));
    }
    let sizes = Sizes {
        kernel: image.as_ref().map_or(0, |image| image.init_size),
        initrd: boot.initrd_len(),
    };
    let mut record = Record::new(cli.system().boot_id(), source, boot.cmdline.clone());
    record.image = image.ok();
    record.findings = findings;
    load_and_record(cli, &boot, sizes, record)?;

    let loaded = cli.system().check_loaded();
    if worst(&loaded) == Verdict::No && !options.force {
        let why = image::reasons(&loaded, Verdict::No);
        let unloaded = raw::kexec_file_unload();
        let _ = record::remove(&cli.system().record);
        let what = match unloaded {
            Ok(()) => "was unloaded again".to_owned(),
            Err(error) => format!("is still loaded ({error})"),
        };
        return Err(Failure::new(Exit::No, format!("{name} {what}: {why}")));
    }
    if !cli.json {
        let _ = output::line(&format!("{name} is loaded; luoctl kexec starts it"));
    }
    Ok(Exit::Good)
}
