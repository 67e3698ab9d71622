//! The fuzz target: any bytes in place of a gateway's event. Run by `make fuzz`.

#![no_main]

mod model;
mod mutate;

use fastrand::Rng;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|event: &[u8]| {
    model::check(event);
});

// Every other change is made to the JSON, and the others to the bytes.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let rng = &mut Rng::with_seed(seed.into());
    match serde_json::from_slice(&data[..size]) {
        Ok(event) if rng.bool() => {
            let event = mutate::mutated(event, rng);
            if event.len() > max_size {
                return fuzzer_mutate(data, size, max_size);
            }
            data[..event.len()].copy_from_slice(&event);
            event.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});
