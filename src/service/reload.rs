//! Asking for the configuration to be read again.

use tokio::sync::{mpsc, oneshot};

/// How many may ask at once; more wait.
const ASKING: usize = 4;

/// Who asked, and is told whether the configuration was taken, or why not.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// Asks whoever knows the configuration to read it again.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<Reload>);

impl Reloads {
    /// A way to ask, and what was asked.
    pub fn new() -> (Self, mpsc::Receiver<Reload>) {
        let (sender, asked) = mpsc::channel(ASKING);
        (Self(sender), asked)
    }

    /// Waits until the configuration was read again; the error says why it was refused, and the one before stays.
    pub async fn reload(&self) -> Result<(), String> {
        let gone = "the service is stopping";
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| gone)?;
        answer.await.unwrap_or_else(|_| Err(gone.to_owned()))
    }
}
