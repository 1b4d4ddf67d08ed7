// SPDX-License-Identifier: GPL-2.0

//! Parameters and initcalls.

use crate::{
    debugfs,
    device,
    early,
    luo_core::Luo,
    policy::{
        self,
        VitalNames, //
    },
    root::{
        self,
        IncomingRoot, //
    },
    sysfs, //
};
use kernel::{
    early_param,
    initcall,
    kho,
    prelude::*,
    str::kstrtobool, //
};

fn parse_param(arg: Option<&CStr>) -> Result {
    early::set_wanted(kstrtobool(arg.ok_or(EINVAL)?)?);
    Ok(())
}
early_param!(c"liveupdate", parse_param);

fn early_init() -> Result {
    let wanted = early::end();
    if !kho::is_enabled() {
        if wanted {
            pr_warn!("Disabling liveupdate because KHO is disabled\n");
        }
        return Ok(());
    }
    take_over(wanted).inspect_err(|err| policy::nothing_is_known(*err))
}

/// Fails with [`ENOMEM`].
fn take_over(wanted: bool) -> Result {
    let vital = VitalNames::take_over(wanted)?;
    let root = IncomingRoot::take_over(wanted);
    if !wanted {
        return Ok(());
    }
    match root::unread() {
        Some(_) => vital.cannot_be_read(),
        None => vital.check_flbs(|name| root.flbs.has(name)),
    }
    Luo::start(root, vital)
}
initcall!(early, early_init);

fn late_init() -> Result {
    let luo = Luo::get();
    if let Some(luo) = luo {
        luo.free_early();
        device::init()?;
    }
    if let Err(err) = sysfs::init() {
        pr_err!(
            "cannot create /sys/kernel/liveupdate: error {}\n",
            err.to_errno()
        );
    }
    luo.map_or(Ok(()), debugfs::init)
}
initcall!(late, late_init);
