//! Faults in how taps are handed over: the engine computes the right thing and shows something else.

use crate::faults::Place::{Layers, Once};
use crate::faults::catalogue::FaultKind;
use crate::faults::delivery::How;

pub(in crate::faults) const KINDS: &[FaultKind] = &[
    FaultKind {
        name: "tap-withheld",
        about: "one tap is not handed over",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("ffn_norm")?, How::Withhold)),
    },
    FaultKind {
        name: "tap-withheld-with-values",
        about: "one tap is handed over as a view, without its values",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("ffn_gate")?, How::AsView)),
    },
    FaultKind {
        name: "tap-twice",
        about: "one tap is handed over twice",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("attn_norm")?, How::Twice)),
    },
    FaultKind {
        name: "tap-renamed",
        about: "one tap has another name",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("kqv_out")?, How::Rename)),
    },
    FaultKind {
        name: "tap-of-other-dims",
        about: "one tap has its first two dims exchanged, with the same values",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("ffn_up")?, How::ExchangeDims)),
    },
    FaultKind {
        name: "tap-of-other-dtype",
        about: "one tap says it is of another element type",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("ffn_inp")?, How::OtherType)),
    },
    FaultKind {
        name: "tap-of-other-op",
        about: "one tap says it comes from another op",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("l_out")?, How::OtherOp)),
    },
    FaultKind {
        name: "tap-cut",
        about: "one tap holds fewer values than its dims say",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("ffn_down")?, How::Cut)),
    },
    FaultKind {
        name: "tap-stale",
        about: "one tap shows the values of the batch before",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("ffn_out")?, How::Stale)),
    },
    FaultKind {
        name: "taps-end-early",
        about: "no tap is handed over from one on",
        place: Layers,
        plant: |plant| Ok(plant.deliver(plant.named("attn_o_out")?, How::StopHere)),
    },
    FaultKind {
        name: "logits-rows-swapped",
        about: "the logits of the first two tokens of a batch are exchanged",
        place: Once,
        plant: |plant| Ok(plant.deliver_logits(How::SwapLogits)),
    },
    FaultKind {
        name: "logits-missing",
        about: "a decode call gives no logits",
        place: Once,
        plant: |plant| Ok(plant.deliver_logits(How::NoLogits)),
    },
    FaultKind {
        name: "logits-nan",
        about: "one logit is NaN",
        place: Once,
        plant: |plant| Ok(plant.deliver_logits(How::NanLogit)),
    },
];
