//! The device status field: virtio 1.2 sections 2.1 and 3.1.1.

use super::registers::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};

/// One bit that a driver set, in the order in which bits may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Acknowledge,
    Driver,
    FeaturesOk,
    DriverOk,
    Failed,
}

/// What is wrong with a write of the status register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusError {
    /// Only a reset clears bits.
    Cleared,
    /// A bit before the one it builds on.
    Order(Step),
    /// Bits that do not exist.
    Unknown,
}

impl StatusError {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Cleared => "status bits are cleared by a reset only",
            Self::Order(Step::DriverOk) => "DRIVER_OK before FEATURES_OK",
            Self::Order(_) => "status bits set out of order",
            Self::Unknown => "unknown status bits",
        }
    }
}

/// The status bits that a driver has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Status(u32);

const ORDER: [(Step, u32, u32); 5] = [
    (Step::Acknowledge, ACKNOWLEDGE, 0),
    (Step::Driver, DRIVER, ACKNOWLEDGE),
    (Step::FeaturesOk, FEATURES_OK, DRIVER),
    (Step::DriverOk, DRIVER_OK, FEATURES_OK),
    (Step::Failed, FAILED, 0),
];

const ALL: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED;

impl Status {
    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Status as it was saved; `None` if no driver could have brought it about.
    pub(super) fn from_bits(bits: u32) -> Option<Self> {
        let ordered = ORDER.iter().all(|(_, bit, needs)| bits & bit == 0 || bits & needs == *needs);
        (bits & !ALL == 0 && ordered).then_some(Self(bits))
    }

    pub(super) fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// A driver writes `value`, which is not 0. `accept` is asked for each new bit, in order, and may refuse it:
    /// it then stays clear, which is how a device says no to a set of features.
    pub(super) fn write(&mut self, value: u32, mut accept: impl FnMut(Step) -> bool) -> Result<(), StatusError> {
        // NEEDS_RESET is the device's own: drivers write back what they read.
        let value = value & !NEEDS_RESET;
        if value & !ALL != 0 {
            return Err(StatusError::Unknown);
        }
        if self.0 & !value != 0 {
            return Err(StatusError::Cleared);
        }
        for (step, bit, needs) in ORDER {
            if value & bit == 0 || self.has(bit) {
                continue;
            }
            if self.0 & needs != needs {
                return Err(StatusError::Order(step));
            }
            if accept(step) {
                self.0 |= bit;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_way_up() {
        let mut status = Status::default();
        let mut steps = Vec::new();
        for value in [ACKNOWLEDGE, 3, 3 | FEATURES_OK, 3 | FEATURES_OK | DRIVER_OK] {
            status
                .write(value | NEEDS_RESET, |step| {
                    steps.push(step);
                    true
                })
                .unwrap();
            assert_eq!(status.bits(), value);
        }
        assert_eq!(steps, [Step::Acknowledge, Step::Driver, Step::FeaturesOk, Step::DriverOk]);
    }

    #[test]
    fn bits_cannot_be_cleared_nor_jump_the_queue() {
        let mut status = Status::default();
        assert_eq!(status.write(DRIVER, |_| true), Err(StatusError::Order(Step::Driver)));
        status.write(ACKNOWLEDGE | DRIVER, |_| true).unwrap();
        assert_eq!(status.write(ACKNOWLEDGE, |_| true), Err(StatusError::Cleared));
        assert_eq!(status.write(3 | DRIVER_OK, |_| true), Err(StatusError::Order(Step::DriverOk)));
        assert_eq!(status.write(3 | 0x100, |_| true), Err(StatusError::Unknown));
        assert_eq!(status.bits(), 3);
    }

    #[test]
    fn refused_features_stay_refused() {
        let mut status = Status::default();
        let refuse = |step| step != Step::FeaturesOk;
        // All at once: what builds on the refused bit is out of order.
        let error = status.write(0xf, refuse).unwrap_err();
        assert_eq!((error, status.bits()), (StatusError::Order(Step::DriverOk), 3));
        status.write(3 | FEATURES_OK, refuse).unwrap();
        assert_eq!(status.bits(), 3);
        assert_eq!(Status::from_bits(3 | DRIVER_OK), None);
        assert_eq!(Status::from_bits(0xf), Some(Status(0xf)));
    }
}
