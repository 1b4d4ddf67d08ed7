// SPDX-License-Identifier: GPL-2.0

//! The reboot path: freezes and serializes all sessions, or none.

use crate::{
    abi::Compatible,
    context::Context,
    fault,
    luo_core::Luo,
    luo_flb::outgoing::OutgoingFlbs,
    luo_session::{
        carry_over::Carried,
        incoming::IncomingSessions,
        outgoing::{
            OutgoingSession,
            OutgoingSessions,
            Parts, //
            Seq,
        },
    },
    policy::{
        Vital,
        VitalData, //
    },
    root::{
        self,
        ENTRY_NAME, //
    },
    trace::{
        Event,
        Serialize, //
    },
};
use kernel::{
    kho::{
        self,
        carry::CarriedOver,
        Preserved, //
    },
    mm::memcg::RootCharge,
    page::PAGE_SIZE,
    prelude::*,
    rbtree::RBTree,
    sync::Arc,
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// Freezes and serializes all sessions, including unfinished ones of the previous kernel. After
/// that, the data that is handed over does not change.
///
/// # Errors
///
/// [`EINVAL`] if there are sessions and the loaded image cannot take them over, or if data of the
/// previous kernel that this one could not use would be lost; [`EEXIST`] if an unfinished session
/// of the previous kernel has the name of a new one, [`EBUSY`] if an operation on a session does
/// not stop, [`EINTR`] if the task was killed, [`ENOMEM`], or the error of the handler that could
/// not freeze a file, or preserve one again. Nothing is frozen then.
///
/// # Context
///
/// May sleep. The kexec lock must be held, and nothing may be shut down yet.
pub(crate) fn reboot() -> Result {
    // Unfinished files may have to be retrieved for the next kernel. That is not limited by the cgroups
    // of the task that starts it, neither that of memory nor that of huge pages.
    let _charge = RootCharge::new();
    Luo::get().map_or_else(carry_over_unread, hand_over)
}

fn hand_over(luo: &'static Luo) -> Result {
    let step = Serialize.begin();
    let totals = hand_over_all(luo);
    // CAST: `usize` has at most 64 bits.
    let counts = totals.as_ref().map(|t| (t.sessions as u64, t.files));
    step.end(&counts.map_err(|err| *err));
    totals.map(|_| ())
}

fn hand_over_all(luo: &'static Luo) -> Result<Totals> {
    let start = Instant::<Monotonic>::now();
    let context = &luo.context;
    let gate = context.gate.close().inspect_err(|err| {
        if *err == EBUSY {
            pr_err!("live update aborted: an operation on a session has not ended\n");
        }
    })?;
    let mut outgoing = luo.outgoing.write();
    let mut incoming = luo.incoming.write();
    incoming.load()?;
    let count = outgoing.count().saturating_add(incoming.iter().count());
    if count == 0 {
        carry_over_unread()?;
        if kho::loaded_image_carries_handover() {
            if let Err(err) = root::hand_over_count(context.number.wrapping_add(1)) {
                pr_warn!(
                    "cannot hand over the number of live updates: error {}\n",
                    err.to_errno()
                );
            }
        }
        gate.seal();
        return Ok(Totals {
            sessions: 0,
            files: 0,
        });
    }
    if root::unread().is_some() {
        return Err(refuse_loss("there are new sessions"));
    }
    if !kho::loaded_image_carries_handover() {
        pr_err!(
            "the loaded image cannot take over {} sessions: load it with kexec_file_load()\n",
            count
        );
        return Err(EINVAL);
    }
    let totals = Carried::prepare(&context.handlers, &mut incoming, &outgoing)
        .and_then(|mut carried| {
            if let Some(carried) = &carried {
                pr_info!(
                    "carrying over {} unfinished sessions with {} files of the previous kernel, \
                     {} pages as they are\n",
                    carried.sessions(),
                    carried.files(),
                    carried.pages()
                );
            }
            let mut vital = vital_data(context, &outgoing, &incoming, carried.as_ref())?;
            let totals = serialize(&mut outgoing, context, carried.as_mut(), &mut vital)?;
            // The data that is handed over must not be freed.
            core::mem::forget(carried);
            Ok(totals)
        })
        .inspect_err(|err| pr_err!("live update aborted: error {}\n", err.to_errno()))?;
    pr_info!(
        "serialized {} sessions with {} files in {} us\n",
        totals.sessions,
        totals.files,
        start.elapsed().as_micros_ceil()
    );
    report_lost();
    gate.seal();
    Ok(totals)
}

/// The vital data that may be handed over. The data of this kernel is handed over only if it can be
/// frozen.
fn vital_data(
    context: &Context,
    outgoing: &OutgoingSessions,
    incoming: &IncomingSessions,
    carried: Option<&Carried>,
) -> Result<KVec<VitalData>> {
    // The handler of data that is carried over may be registered in the previous kernel only.
    let mut names = KVec::<Vital>::new();
    names.extend_from_slice(context.vital.names(), GFP_KERNEL)?;
    let handlers = &context.handlers;
    handlers.vital(&mut |vital| Ok(names.push(vital, GFP_KERNEL)?))?;

    let mut data = KVec::new();
    if names.is_empty() {
        return Ok(data);
    }
    let mut add = |format: &[u8], is_flb, handed_over| {
        VitalData::add_known(&mut data, &names, format, is_flb, handed_over)
    };
    let mut sessions = outgoing.iter();
    sessions.try_for_each(|session| session.formats(&mut |format| add(format, false, false)))?;
    let flbs = &handlers.flbs;
    flbs.outgoing
        .formats(&mut |format| add(format, true, false))?;
    let mut sessions = incoming.iter();
    sessions.try_for_each(|session| session.formats(&mut |format| add(format, false, true)))?;
    for flb in carried.map_or(&[][..], Carried::flbs) {
        let name = Compatible::parse(&flb.name)?;
        add(name.as_bytes(), true, true)?;
    }
    Ok(data)
}

/// Marks the vital data of `sessions`, without skipped files, and of the FLBs of their files.
fn mark_handed_over(
    vital: &mut [VitalData],
    sessions: &RBTree<Seq, Arc<OutgoingSession>>,
    flbs: &OutgoingFlbs,
) {
    if vital.is_empty() {
        return;
    }
    for session in sessions.values() {
        session.frozen_formats(&mut |format| {
            VitalData::mark(vital, format, false, true);
        });
    }
    flbs.needed_formats(&mut |format| {
        VitalData::mark(vital, format, true, true);
    });
}

/// The serialized sessions.
struct Totals {
    sessions: usize,
    files: u64,
}

/// Freezes all sessions and serializes them, followed by `carried`.
///
/// On failure, only the files of `carried` may be frozen, which it unfreezes on drop.
///
/// # Errors
///
/// [`ENOMEM`] and [`ENOSPC`] only because of `carried` and `vital`, and the errors of handlers.
fn serialize(
    outgoing: &mut OutgoingSessions,
    context: &Context,
    carried: Option<&mut Carried>,
    vital: &mut [VitalData],
) -> Result<Totals> {
    // On failure, the room for `carried` is not needed any more.
    serialize_with(outgoing, context, carried, vital).inspect_err(|_| outgoing.shrink())
}

fn serialize_with(
    outgoing: &mut OutgoingSessions,
    context: &Context,
    mut carried: Option<&mut Carried>,
    vital: &mut [VitalData],
) -> Result<Totals> {
    let flbs = &context.handlers.flbs.outgoing;
    if let Some(carried) = &carried {
        outgoing.make_room(context, carried.sessions())?;
        flbs.check_room(carried.flbs().len())?;
    }

    let mut totals = Totals {
        sessions: outgoing.count(),
        files: 0,
    };
    let Some(Parts {
        sessions,
        blocks,
        root,
    }) = outgoing.parts()
    else {
        return Ok(totals);
    };
    root.set_sessions(0);
    root.make_room_for_vital(vital.len())?;

    let mut frozen = FrozenSessions {
        sessions,
        last: None,
    };
    for (seq, session) in frozen.sessions.iter() {
        let files = session.freeze()?;
        totals.files = totals.files.saturating_add(files);
        // INVARIANT: This session is frozen as well.
        frozen.last = Some(*seq);
    }

    fault::point()?;
    if let Some(carried) = &mut carried {
        carried.freeze()?;
    }

    let carried = carried.as_deref();
    let own = frozen.sessions.values().map(|session| session.serialize());
    let others = carried.into_iter().flat_map(Carried::serialize);
    let head = blocks.write(Iterator::chain(own, others))?;
    // Nothing fails from here on. FLBs on which only files depend that are not handed over are not
    // handed over either.
    for session in frozen.sessions.values() {
        session.remove_skipped();
    }
    mark_handed_over(vital, frozen.sessions, flbs);
    root.set_vital(vital);
    flbs.serialize(root.flbs_mut(), carried.map_or(&[], Carried::flbs));
    // From here on, the next kernel finds the sessions.
    root.set_sessions(head);
    core::mem::forget(frozen);
    Ok(totals)
}

/// Sessions that are being frozen. Dropping it unfreezes them, last one first.
///
/// # Invariants
///
/// The sessions up to `last` are frozen, the others are not.
struct FrozenSessions<'a> {
    sessions: &'a mut RBTree<Seq, Arc<OutgoingSession>>,
    last: Option<Seq>,
}

impl Drop for FrozenSessions<'_> {
    fn drop(&mut self) {
        let Some(last) = self.last else {
            return;
        };
        let mut cursor = self.sessions.cursor_lower_bound_mut(&last);
        while let Some(at) = cursor {
            at.current().1.unfreeze();
            cursor = at.move_prev();
        }
    }
}

/// Hands over the unused data of the previous kernel again, if there is any.
///
/// # Errors
///
/// [`EINVAL`] if the loaded image cannot take it over; [`ENOMEM`], [`EEXIST`] if the name in the
/// Kexec Handover tree is in use. Nothing has changed then.
///
/// # Context
///
/// May sleep. Must only be called if this kernel has no sessions.
fn carry_over_unread() -> Result {
    let Some(root) = root::unread() else {
        report_lost();
        return Ok(());
    };
    if !kho::loaded_image_carries_handover() {
        return Err(refuse_loss("the loaded image cannot take over memory"));
    }
    let memory = CarriedOver::new()?;
    let mut copy = Preserved::<[u8; PAGE_SIZE]>::new_zeroed()?;
    // All versions so far have a root of one page.
    for (to, from) in copy.iter_mut().zip(root.bytes()) {
        *to = *from;
    }
    let copy = copy.publish(ENTRY_NAME)?;
    pr_info!(
        "carrying over the unread data of the previous kernel, {} pages\n",
        memory.pages()
    );
    // The data that is handed over must not be freed.
    core::mem::forget((memory, copy));
    Ok(())
}

/// Logs why the kexec would lose the unused data of the previous kernel.
fn refuse_loss(why: &str) -> Error {
    pr_err!(
        "{}: the kexec is refused, since the unread data of the previous kernel would be lost; to \
         give it up, write \"drop\" to /sys/kernel/liveupdate/unread\n",
        why
    );
    EINVAL
}

/// Logs that the unused data of the previous kernel is lost, if there is any. Must be called when
/// the kexec cannot be aborted any more.
fn report_lost() {
    if root::given_up() == Some(true) {
        pr_warn!("the unread data of the previous kernel is lost, as requested\n");
    }
}
