//! What is taken off a packet, and which packets are not taken.
