// SPDX-License-Identifier: GPL-2.0

//! Initramfs images: newc archives, written without root privileges.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{trailer, Builder, ModeFileType};

use crate::ctx::Ctx;
use crate::image::programs::{BaseTests, BASE_TEST};
use crate::kernel::build::Kernel;

/// An archive being written.
struct Image {
    file: File,
    path: PathBuf,
    inode: u32,
}

impl Image {
    fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(path.parent().context("a path with no parent")?)?;
        Ok(Self {
            file: File::create(&path)?,
            path,
            inode: 0,
        })
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, mode: u32) -> Builder {
        self.inode += 1;
        Builder::new(name.trim_start_matches('/'))
            .ino(self.inode)
            .mode(mode)
            .set_mode_file_type(kind)
    }

    fn dir(&mut self, name: &str) -> Result<()> {
        let entry = self.entry(name, ModeFileType::Directory, 0o755);
        entry.write(&mut self.file, 0).finish()?;
        Ok(())
    }

    fn console(&mut self) -> Result<()> {
        let entry = self.entry("/dev/console", ModeFileType::Char, 0o600);
        entry
            .rdev_major(5)
            .rdev_minor(1)
            .write(&mut self.file, 0)
            .finish()?;
        Ok(())
    }

    fn bytes(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("too large for an initramfs")?;
        let entry = self.entry(name, ModeFileType::Regular, 0o755);
        let mut writer = entry.write(&mut self.file, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }

    fn file(&mut self, name: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.bytes(name, &content)
    }

    fn finish(mut self) -> Result<PathBuf> {
        trailer(&mut self.file)?;
        Ok(self.path)
    }
}

/// The image with the guest program as init; `next` are the kernels to kexec, in order.
pub fn guest(
    ctx: &Ctx,
    name: &str,
    guest: &Path,
    next: &[&Kernel],
    tests: Option<&BaseTests>,
) -> Result<PathBuf> {
    let tests = tests.map(|tests| (format!("/bin/{BASE_TEST}"), tests.program(BASE_TEST)));
    let programs: Vec<_> = tests
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    guest_with(ctx, name, guest, next, &programs)
}

/// The same, with further programs: their names in the image, and their files.
pub fn guest_with(
    ctx: &Ctx,
    name: &str,
    guest: &Path,
    next: &[&Kernel],
    programs: &[(&str, &Path)],
) -> Result<PathBuf> {
    let mut image = Image::create(path(ctx, name))?;
    for dir in [
        "/bin", "/boot", "/dev", "/lib", MODULES, "/proc", "/sys", "/tmp",
    ] {
        image.dir(dir)?;
    }
    image.console()?;
    image.file("/init", guest)?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|p| p.exists());
    image.file(
        "/bin/busybox",
        busybox.context("busybox is missing: `make doctor` says how to get it.")?,
    )?;
    for (kernel, file) in next.iter().zip(["/boot/next", "/boot/next2"]) {
        image.file(file, &kernel.image)?;
    }
    for (name, path) in programs {
        image.file(name, path)?;
    }
    image.finish()
}

/// The same, with the modules of the next kernel.
pub fn guest_with_modules(
    ctx: &Ctx,
    name: &str,
    guest: &Path,
    next: &[&Kernel],
) -> Result<PathBuf> {
    let modules = next.first().map(|kernel| modules(kernel)).transpose()?;
    let modules = modules.unwrap_or_default();
    let modules: Vec<_> = modules
        .iter()
        .map(|(name, path)| (name.as_str(), path.as_path()))
        .collect();
    guest_with(ctx, name, guest, next, &modules)
}

/// Where the modules of a kernel are in an image.
const MODULES: &str = "/lib/modules";

/// The modules of a kernel: their names in an image, and their files. The list is empty if the
/// kernel was built without support for modules.
pub fn modules(kernel: &Kernel) -> Result<Vec<(String, PathBuf)>> {
    let list = kernel.out.join("modules.order");
    if !list.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let files = text
        .lines()
        .map(|line| kernel.out.join(line).with_extension("ko"));
    files
        .map(|file| {
            let name = file.file_name().context("a module without a name")?;
            Ok((format!("{MODULES}/{}", name.to_string_lossy()), file))
        })
        .collect()
}

/// The image for the base's init: a test that runs before and after a kexec.
pub fn base_kexec_test(ctx: &Ctx, test: &str, tests: &BaseTests, next: &Kernel) -> Result<PathBuf> {
    let common = |image: &mut Image| -> Result<()> {
        for dir in ["/dev", "/proc", "/debugfs"] {
            image.dir(dir)?;
        }
        image.console()?;
        image.file("/init", &tests.program("init"))?;
        image.file("/test_binary", &tests.program(test))
    };
    let mut second = Image::create(path(ctx, &format!("{test}-second")))?;
    common(&mut second)?;
    let second = second.finish()?;
    let mut first = Image::create(path(ctx, test))?;
    common(&mut first)?;
    first.file("/kernel", &next.image)?;
    first.file("/initrd.img", &second)?;
    first.finish()
}

fn path(ctx: &Ctx, name: &str) -> PathBuf {
    ctx.build.join("images").join(format!("{name}.cpio"))
}
