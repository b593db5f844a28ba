//! The fuzz targets of `tests/fuzz` on any compiler: each seed as it is, cut at every length, with
//! every byte changed, and after thousands of random changes, which are the same in every run.
#![allow(clippy::unwrap_used)] // tests may panic

#[path = "../../../tests/fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is the library of another package")]
mod targets;

use std::{fs, panic, path::PathBuf};

use proptest::{
    prelude::{Rng as _, RngExt as _},
    test_runner::{RngAlgorithm, TestRng},
};

/// Random changes of each seed.
const ROUNDS: usize = 20_000;
/// No longer than what a socket gives.
const LONGEST: usize = 4352;

#[test]
fn v2() {
    mutated("v2");
}

#[test]
fn v3() {
    mutated("v3");
}

#[test]
fn ah() {
    mutated("ah");
}

#[test]
fn claim() {
    mutated("claim");
}

/// Without seeds that are understood the rest would never get past the first check.
#[test]
fn the_seeds_are_understood() {
    use steerd_core::{
        announce::parse_claim,
        config::{Authentication, Password, Version, Wire},
        vrrp::wire::{Advert, ah},
    };
    let password = Password::new("s3cret12").unwrap();
    let v4 = ["10.77.0.1", "224.0.0.18"].map(|text| text.parse().unwrap());
    let v6 = ["fe80::1", "ff02::12"].map(|text| text.parse().unwrap());
    let understood = |target: &str, name: &str, seed: &[u8]| match target {
        "ah" => ah::open(&password, seed).is_ok(),
        "claim" => parse_claim(seed).is_some(),
        "v2" => {
            let authentication = match name {
                "keepalived-pass" => Authentication::Pass(password),
                "keepalived-ah" => Authentication::Ah(password),
                _ => Authentication::None,
            };
            let wire = Wire {
                version: Version::V2,
                authentication,
                ..Wire::default()
            };
            Advert::decode(seed, &wire, v4[0], v4[1]).is_ok()
        }
        _ => [v4, v6]
            .iter()
            .any(|[from, to]| Advert::decode(seed, &Wire::default(), *from, *to).is_ok()),
    };
    for (target, _) in targets::TARGETS {
        for (name, seed) in seeds(target) {
            assert!(understood(target, &name, &seed), "{target}/{name}");
        }
    }
}

/// Runs a target over all that can be made of its seeds.
fn mutated(target: &str) {
    let run = targets::TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .map(|(_, run)| *run)
        .unwrap();
    let check = |bytes: &[u8]| {
        if let Err(panic) = panic::catch_unwind(|| run(bytes)) {
            // As libFuzzer would print it.
            println!("{target}: the input was {bytes:02x?}");
            panic::resume_unwind(panic);
        }
    };
    let seeds = seeds(target);
    assert!(!seeds.is_empty());
    for (at, (_, seed)) in seeds.iter().enumerate() {
        check(seed);
        for length in 0..seed.len() {
            check(&seed[..length]);
            for value in [0, 1, 0x7f, 0x80, 0xff, seed[length] ^ 1, !seed[length]] {
                let mut changed = seed.clone();
                changed[length] = value;
                check(&changed);
            }
        }
        let number = u8::try_from(at).unwrap_or(u8::MAX);
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[number; 32]);
        let mut changed = seed.clone();
        for round in 0..ROUNDS {
            // Some changes on top of each other, then from the start again.
            if round % 8 == 0 {
                changed.clone_from(seed);
            }
            change(&mut changed, &seeds, &mut random);
            check(&changed);
        }
    }
}

/// One of the changes that fuzzers make.
fn change(bytes: &mut Vec<u8>, seeds: &[(String, Vec<u8>)], random: &mut TestRng) {
    let at = random.random_range(0..=bytes.len());
    match random.random_range(0..7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.next_u32() as u8),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        3 => {
            let mut tail = vec![0; random.random_range(0..64)];
            random.fill_bytes(&mut tail);
            bytes.extend(tail);
        }
        4 => {
            let (_, other) = &seeds[random.random_range(0..seeds.len())];
            bytes.truncate(at);
            bytes.extend(&other[at.min(other.len())..]);
        }
        5 => bytes.extend_from_within(at..),
        _ if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        _ => {}
    }
    bytes.truncate(LONGEST);
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds");
    let entries = fs::read_dir(dir.join(target)).unwrap();
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}
