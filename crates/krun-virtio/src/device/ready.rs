//! What a descriptor is ready for.

use std::ops::{BitAnd, BitOr, BitOrAssign};

use event_manager::EventSet;

/// A set of events on a descriptor: what a worker waits for, and what it was told.
///
/// [`Ready::HANGUP`] and [`Ready::ERROR`] are told whether asked for or not, unless nothing at all is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Ready(u32);

impl Ready {
    /// Nothing: the descriptor stays known, and is not waited for.
    pub const NONE: Self = Self(0);
    /// It can be read (or accepted from) without blocking; `EPOLLIN`.
    pub const IN: Self = Self(EventSet::IN.bits());
    /// It can be written without blocking; `EPOLLOUT`.
    pub const OUT: Self = Self(EventSet::OUT.bits());
    /// The peer will send no more; `EPOLLRDHUP`.
    pub const READ_HANGUP: Self = Self(EventSet::READ_HANG_UP.bits());
    /// Both directions are closed; `EPOLLHUP`.
    pub const HANGUP: Self = Self(EventSet::HANG_UP.bits());
    /// Something is wrong with it; `EPOLLERR`.
    pub const ERROR: Self = Self(EventSet::ERROR.bits());

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether some of `other` is in it.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is [`Ready::NONE`].
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Reading will not block: there are bytes, an end, or an error to be had.
    pub fn readable(self) -> bool {
        self.intersects(Self::IN | Self::READ_HANGUP | Self::HANGUP | Self::ERROR)
    }

    /// Writing will not block: there is room, or an error to be had.
    pub fn writable(self) -> bool {
        self.intersects(Self::OUT | Self::HANGUP | Self::ERROR)
    }

    pub(crate) fn events(self) -> EventSet {
        EventSet::from_bits_truncate(self.0)
    }

    pub(crate) fn from_events(events: EventSet) -> Self {
        Self(events.bits())
    }
}

impl BitOr for Ready {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Ready {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
