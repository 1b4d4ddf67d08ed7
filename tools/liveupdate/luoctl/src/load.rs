// SPDX-License-Identifier: GPL-2.0

//! `luoctl load`.

use crate::{
    cli::{Cli, Exit, Failure, LoadOptions},
    image::{self, failed},
    output,
};
use liveupdate::raw;
use luo_check::{
    record::{self, Source},
    worst, Record, Verdict,
};
use std::{
    ffi::CString,
    fs::File,
    os::fd::AsFd,
    path::{self, Path},
};

fn source(path: &Path, file: &File) -> Result<Source, Failure> {
    let metadata = file.metadata().map_err(|error| failed(path, error))?;
    let path = path::absolute(path).map_err(|error| failed(path, error))?;
    Ok(Source::new(&path, &metadata))
}

/// Loads an image, and writes down what is known of it.
fn load_and_record(
    cli: &Cli,
    kernel: &File,
    initrd: Option<&File>,
    record: &Record,
) -> Result<(), Failure> {
    let system = cli.system();
    let cmdline = CString::new(record.cmdline.as_str())
        .map_err(|_| Failure::new(Exit::Usage, "the command line contains a null byte"))?;
    // There must be no time at which the record is that of another image than the loaded one.
    let before = system.record().ok().flatten();
    record::remove(&system.record).map_err(|error| failed(&system.record, error))?;
    if let Err(error) = raw::kexec_file_load(kernel.as_fd(), initrd.map(AsFd::as_fd), &cmdline) {
        // What was loaded before is loaded still.
        if let Some(Err(error)) = before.map(|before| before.write(&system.record)) {
            output::warn(&format!("{}: {error}", system.record.display()));
        }
        let name = record.source.path.display();
        let message = format!("the kernel cannot load {name}: {error}");
        return Err(Failure::new(Exit::Failed, message));
    }
    if source(&record.source.path, kernel)? != record.source {
        let _ = raw::kexec_file_unload();
        let message = "it was changed while it was loaded, and is not loaded; try again";
        return Err(failed(&record.source.path, message));
    }
    record.write(&system.record).map_err(|error| {
        failed(
            &system.record,
            format!("the image is loaded, but what is known of it cannot be written down: {error}"),
        )
    })
}

/// `luoctl load IMAGE`.
pub fn load(cli: &Cli, options: &LoadOptions) -> Result<Exit, Failure> {
    let cmdline = cli.cmdline(options.cmdline.as_deref())?;
    let path = &options.image;
    let name = path.display();
    let open = |path: &Path| File::open(path).map_err(|error| failed(path, error));
    let kernel = open(path)?;
    let initrd = options.initrd.as_deref().map(open).transpose()?;
    let initrd_len = initrd.as_ref().and_then(|file| file.metadata().ok());
    let initrd_len = initrd_len.map_or(0, |metadata| metadata.len());

    let source = source(path, &kernel)?;
    let image = image::examine(path, &kernel)?;
    let findings = image::findings(cli, &image, initrd_len, &cmdline);
    image::show(cli, &findings);
    if worst(&findings) == Verdict::No && !options.force {
        return Err(Failure::new(
            Exit::No,
            format!(
                "{name} was not loaded: an update to it would lose data; --force loads it all \
                the same"
            ),
        ));
    }
    let record = Record {
        boot_id: cli.system().boot_id(),
        source,
        image: image.ok(),
        cmdline,
        findings,
    };
    load_and_record(cli, &kernel, initrd.as_ref(), &record)?;

    let loaded = cli.system().check_loaded();
    if worst(&loaded) == Verdict::No && !options.force {
        let why = image::reasons(&loaded, Verdict::No);
        let unloaded = raw::kexec_file_unload();
        let _ = record::remove(&cli.system().record);
        let what = match unloaded {
            Ok(()) => "was unloaded again".to_owned(),
            Err(error) => format!("is loaded still ({error})"),
        };
        return Err(Failure::new(Exit::No, format!("{name} {what}: {why}")));
    }
    if !cli.json {
        let _ = output::line(&format!("{name} is loaded; luoctl kexec starts it"));
    }
    Ok(Exit::Good)
}
