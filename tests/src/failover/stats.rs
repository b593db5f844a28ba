//! Summary of a few samples.

/// What a handful of samples came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Summary {
    /// Of samples in any order; none of none.
    #[must_use]
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
        Some(Self {
            median: f64::midpoint(sorted[low], sorted[high]),
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        let summary = |samples: &[f64]| Summary::of(samples.iter().copied());
        let whole = |median, min, max| Some(Summary { median, min, max });
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[3.0]), whole(3.0, 3.0, 3.0));
        assert_eq!(summary(&[9.0, 1.0, 2.0]), whole(2.0, 1.0, 9.0));
        assert_eq!(summary(&[4.0, 1.0, 9.0, 2.0]), whole(3.0, 1.0, 9.0));
        // One run that went wrong does not move the median.
        assert_eq!(
            summary(&[5.0, 6.0, 900.0]).map(|summary| summary.median),
            Some(6.0)
        );
    }
}
