//! The rights that are needed for a moment only.

use anyhow::Context as _;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Gives up `CAP_SYS_ADMIN` for good, of which marking file systems was all the use. To be called while there is one
/// thread: those that it starts have what it has then.
pub fn give_up_marking() -> anyhow::Result<()> {
    let held = || capabilities(None).context("read the capabilities of this process");
    let mut sets = held()?;
    if !sets.permitted.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    // With these it goes from the ambient set as well.
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    sets.permitted.remove(CapabilitySet::SYS_ADMIN);
    sets.inheritable.remove(CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets).context("give up CAP_SYS_ADMIN (does the unit's SystemCallFilter= allow capset?)")
}
