//! Who runs where: the load has the machine's first CPU to itself, and the daemons have the others. A
//! daemon that starts keeps its CPU busy in the kernel for milliseconds at a time; on a network of
//! machines that is no business of the others.

use std::sync::LazyLock;

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::error::{Context, Result};

/// Who works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Client, echo and watcher: the first CPU.
    Load,
    /// The daemons: all others.
    Daemons,
    /// Whoever: all of them.
    All,
}

/// Has the calling thread, and what it starts from now on, run where `part` belongs. Where there is
/// only one CPU, all share it.
///
/// # Errors
///
/// The kernel refuses.
pub fn keep_to(part: Part) -> Result<()> {
    let what = || "choose a CPU".into();
    let all = ALL.clone().context(what)?;
    let mut chosen = CpuSet::new();
    for cpu in part.of(&all) {
        chosen.set(cpu).context(what)?;
    }
    sched_setaffinity(THIS, &chosen).context(what)
}

impl Part {
    fn of<T: Copy>(self, all: &[T]) -> Vec<T> {
        match (self, all) {
            (Self::Load, [first, _, ..]) => vec![*first],
            (Self::Daemons, [_, rest @ ..]) if !rest.is_empty() => rest.to_vec(),
            (_, all) => all.to_vec(),
        }
    }
}

/// Those that this process was given, before it chose among them.
static ALL: LazyLock<Result<Vec<usize>, Errno>> = LazyLock::new(|| {
    let all = sched_getaffinity(THIS)?;
    let is_ours = |cpu: &usize| all.is_set(*cpu).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(is_ours).collect())
});

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_has_one_and_the_daemons_the_others() {
        let of = |all: &[usize]| [Part::Load, Part::Daemons, Part::All].map(|part| part.of(all));
        assert_eq!(of(&[0, 1]), [vec![0], vec![1], vec![0, 1]]);
        assert_eq!(of(&[2, 5, 7]), [vec![2], vec![5, 7], vec![2, 5, 7]]);
        assert_eq!(of(&[3]), [vec![3], vec![3], vec![3]]);
    }
}
