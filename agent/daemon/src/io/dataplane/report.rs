//! The kernel program's reports of rare events, on their way to the log.

use aya::Ebpf;
use tokio::io::unix::AsyncFd;
use tracing::warn;

/// Hands what the kernel program reports to the log. Call it within a tokio runtime.
pub(super) fn log_reports(ebpf: &mut Ebpf) {
    let logger = match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return warn!("the kernel program's reports are not logged: {error}"),
    };
    // SAFETY: the logger owns its map's descriptor and keeps it until it is dropped.
    let registered = unsafe { AsyncFd::register(logger) };
    let mut logger = match registered {
        Ok(logger) => logger,
        Err(error) => return warn!("the kernel program's reports are not logged: {error}"),
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}
