#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| steerd_fuzz::ah(data));
