//! Adverts in.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use steerd_core::{config::Name, event::Event};
use tokio::{io::Interest, sync::mpsc};

use super::{
    Segment,
    accept::{self, Packet, Refusal},
    drops::{DropCause, Drops},
    socket::{self, Received},
};

/// Reads packets for as long as the segment is listened to.
pub(super) async fn receive(segment: Arc<Segment>, events: mpsc::Sender<Event>, drops: Arc<Drops>) {
    // A read that fails at once, over and over, must not take the processor with it.
    const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
    // Of one virtual router, how often the core hears that somebody speaks otherwise: forged packets
    // must not keep it busy.
    const TELL_AFTER: Duration = Duration::from_secs(1);
    let mut told: BTreeMap<Name, Instant> = BTreeMap::new();
    let mut buffer = vec![0; socket::LARGEST_PACKET];
    loop {
        let received = segment
            .socket
            .async_io(Interest::READABLE, |socket| socket.receive(&mut buffer))
            .await;
        let packet = match received {
            Ok(Received::Packet {
                source,
                destination,
                hop_limit,
                payload,
            }) => Packet {
                framing: segment.plan.framing,
                source,
                destination,
                hop_limit,
                whole: buffer.get(..payload.end).unwrap_or_default(),
                payload: buffer.get(payload).unwrap_or_default(),
            },
            Ok(Received::Malformed(what)) => {
                drops.count(DropCause::Malformed, &segment.plan.interface, &what);
                continue;
            }
            Err(error) => {
                drops.count(DropCause::ReadFailed, &segment.plan.interface, &error);
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        let ours = segment.sources();
        let is_ours = |address| ours.contains(address);
        match accept::accept(&segment.plan.routes, &segment.sequences, is_ours, &packet) {
            Ok((router, advert)) => {
                let event = Event::Advert {
                    router,
                    source: packet.source,
                    advert,
                };
                if events.try_send(event).is_err() {
                    drops.count(DropCause::Busy, &segment.plan.interface, &packet.source);
                }
            }
            Err(Refusal {
                cause,
                detail,
                mismatch,
            }) => {
                drops.count(cause, &segment.plan.interface, &detail);
                let Some((router, mismatch)) = mismatch else {
                    continue;
                };
                let last = told.get(&router);
                if last.is_none_or(|last| last.elapsed() >= TELL_AFTER) {
                    told.insert(router.clone(), Instant::now());
                    // It comes again.
                    let _ = events.try_send(Event::Refused {
                        router,
                        source: packet.source,
                        mismatch,
                    });
                }
            }
        }
    }
}
