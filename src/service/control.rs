//! The socket in the state directory, over which commands of this machine reach the service without a token.

use std::path::{Path, PathBuf};

/// Where it lies. Whoever may write in the state directory may do everything else there as well.
pub fn socket_in(state_dir: &Path) -> PathBuf {
    state_dir.join("holdfast.sock")
}
