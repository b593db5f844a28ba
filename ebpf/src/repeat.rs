//! Loops whose length a packet decides, within a bound.
//!
//! The verifier follows an ordinary loop round by round, and each round's branches again for every
//! way that led to it. `bpf_loop` (Linux 5.17) takes the body as a function, which it looks at once.

/// What a loop does.
pub trait Step {
    /// One round; whether there is to be another one.
    fn step(&mut self) -> bool;
}

/// Does at most so many rounds.
#[inline(always)]
pub fn repeat<S: Step>(times: u32, state: &mut S) {
    #[cfg(not(feature = "kernel"))]
    for _ in 0..times {
        if !state.step() {
            return;
        }
    }
    #[cfg(feature = "kernel")]
    // SAFETY: the callback is called with the state's address and only while the helper runs.
    unsafe {
        aya_ebpf::helpers::generated::bpf_loop(
            times,
            call::<S> as *mut core::ffi::c_void,
            (&raw mut *state).cast(),
            0,
        );
    }
}

#[cfg(feature = "kernel")]
unsafe extern "C" fn call<S: Step>(_round: u64, state: *mut core::ffi::c_void) -> i64 {
    // SAFETY: `repeat` passes the address of its exclusive reference.
    let state = unsafe { &mut *state.cast::<S>() };
    i64::from(!state.step())
}
