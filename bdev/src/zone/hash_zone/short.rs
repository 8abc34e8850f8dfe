//! Writes that find no free block while some are not to be had yet: they wait for one, and ask again.
//!
//! They have not entered a hash lock yet, and nobody waits for them but the request they come from.

use super::member::Waits;
use super::{HashZone, Verdict, Zone};
use crate::dedupe::RequestId;
use crate::depot::WriteKind;

impl HashZone {
    /// Whether room may come that a member did not find.
    pub(super) fn may_come(&self, zone: &Zone, id: RequestId) -> bool {
        let seen = self.with(id, |member| member.room_seen);
        seen.is_none_or(|seen| zone.shared.room.may_come(seen))
    }

    pub(super) fn wait_for_room(&self, id: RequestId) {
        self.set(id, Waits::Room);
        self.short.borrow_mut().push(id);
    }

    /// Whether a member that waits for room need wait no longer.
    fn is_served(&self, zone: &Zone, id: RequestId) -> bool {
        let seen = self.with(id, |member| member.room_seen);
        seen.is_none_or(|seen| zone.shared.is_room_settled(seen))
    }

    /// Whether [`HashZone::serve_short`] has something to do.
    pub fn may_serve_short(&self, zone: &Zone) -> bool {
        let short = self.short.borrow();
        short.iter().any(|id| self.is_served(zone, *id))
    }

    /// Lets members ask again for a block, if room has come since they did; says whether there were any.
    #[inline]
    pub fn serve_short(&self, zone: &Zone) -> bool {
        !self.short.borrow().is_empty() && self.ask_again(zone)
    }

    #[cold]
    fn ask_again(&self, zone: &Zone) -> bool {
        let all = std::mem::take(&mut *self.short.borrow_mut());
        let (served, waiting): (Vec<_>, _) =
            all.into_iter().partition(|id| self.is_served(zone, *id));
        *self.short.borrow_mut() = waiting;
        for &id in &served {
            let seen = zone.shared.room.seen();
            self.with(id, |member| member.room_seen = seen);
            let block = zone.physical.allocate(WriteKind::Data);
            let from = self.with(id, |member| member.from);
            // A request that entered from here expects to be told by that very call, which is over.
            if let Some(from) = from.filter(|from| block.is_ok() && from.zone == zone.index) {
                zone.tell(from, Verdict::Promise);
            }
            self.allocated(zone, id, block, 1);
        }
        !served.is_empty()
    }
}
