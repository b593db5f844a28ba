//! How long flows count that nothing is heard of: `[flows]`.

use std::time::Duration;

/// How long a flow keeps its place in the flow table against newcomers after its last packet, and
/// counts as a connection of its backend, by protocol and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP that has not lasted: a handshake, and what follows it at once.
    pub tcp_new: Duration,
    /// TCP that has.
    pub tcp_established: Duration,
    /// TCP after a FIN or RST of the client.
    pub tcp_closing: Duration,
    /// UDP before the second packet.
    pub udp_new: Duration,
    /// UDP from then on.
    pub udp_established: Duration,
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self {
            tcp_new: Duration::from_secs(60),
            // TCP's keepalive, every two hours, renews it.
            tcp_established: Duration::from_secs(7440),
            tcp_closing: Duration::from_secs(60),
            udp_new: Duration::from_secs(30),
            udp_established: Duration::from_secs(180),
        }
    }
}
