//! `parity-check synth OUT.gguf`: writes a synthetic model.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::cli::complain;
use crate::exit::{ExitCode, Failure};
use crate::generate::{self, Architecture, GenerateError, HeadType, ModelSpec, Preset, VocabularyKind};

/// The command line of `synth`: a preset, and flags that change it.
#[derive(Debug, Clone, Args)]
pub struct SynthArgs {
    /// File to write; one that is there is replaced
    #[arg(value_name = "OUT.gguf")]
    pub out: PathBuf,

    /// Hyper-parameters to start from; `2b` has the shapes of BitNet b1.58 2B-4T (1.18 GB)
    #[arg(long, default_value = Preset::Small.name(), value_parser = presets())]
    pub preset: Preset,

    /// Seed of every weight: the same flags and seed give the same bytes on every machine
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Architecture.
    #[arg(long, value_parser = generate::architecture, help = architecture_help())]
    pub arch: Option<Architecture>,

    /// Number of layers
    #[arg(long, value_name = "N")]
    pub layers: Option<u32>,

    /// Width of the residual stream
    #[arg(long, value_name = "WIDTH")]
    pub embd: Option<u32>,

    /// Query heads
    #[arg(long, value_name = "N")]
    pub heads: Option<u32>,

    /// Key and value heads
    #[arg(long, value_name = "N")]
    pub kv_heads: Option<u32>,

    /// Elements per head [default: width / heads]
    #[arg(long, value_name = "N")]
    pub head_dim: Option<u32>,

    /// Inner width of the feed-forward part
    #[arg(long, value_name = "WIDTH")]
    pub ffn: Option<u32>,

    /// Number of tokens in the vocabulary
    #[arg(long, value_name = "N")]
    pub vocab: Option<u32>,

    /// Context length that the model declares
    #[arg(long, value_name = "N")]
    pub ctx: Option<u32>,

    /// Epsilon of the norms
    #[arg(long, value_name = "X")]
    pub eps: Option<f32>,

    /// Base of RoPE's angles
    #[arg(long, value_name = "X")]
    pub theta: Option<f32>,

    /// Write `rope_freqs.weight`: divisors of RoPE's frequencies
    #[arg(long)]
    pub rope_freqs: bool,

    /// Declare linear position scaling by this factor
    #[arg(long, value_name = "X")]
    pub rope_scale: Option<f32>,

    /// Type of the embedding, which is the output head too
    #[arg(long, value_parser = head_types())]
    pub head: Option<HeadType>,

    /// Write biases of the attention projections
    #[arg(long)]
    pub biases: bool,

    /// Write biases of the feed-forward projections, which the reference loads and does not use
    #[arg(long)]
    pub ffn_biases: bool,

    /// Write `output.weight`, which the reference loads and does not use
    #[arg(long)]
    pub output_weight: bool,

    /// Tokenizer: byte-level BPE, the same with merges and special tokens that make every cut show, or
    /// SentencePiece
    #[arg(long, value_parser = tokenizers())]
    pub tokenizer: Option<VocabularyKind>,

    /// Name of the pre-tokenizer to declare [default: none, as in the official file]
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,

    /// Write the metadata and the vocabulary, and no tensors
    #[arg(long)]
    pub vocab_only: bool,
}

impl SynthArgs {
    /// The model that the flags describe; not yet validated.
    pub fn spec(&self) -> ModelSpec {
        let preset = ModelSpec::preset(self.preset);
        let width = self.embd.unwrap_or(preset.width);
        let heads = self.heads.unwrap_or(preset.heads);
        ModelSpec {
            architecture: self.arch.unwrap_or(preset.architecture),
            layers: self.layers.unwrap_or(preset.layers),
            width,
            heads,
            kv_heads: self.kv_heads.unwrap_or(preset.kv_heads),
            // A number of heads that does not divide the width leaves a product that is not the
            // width, which `validate` names.
            head_dim: self.head_dim.unwrap_or(width.checked_div(heads).unwrap_or(preset.head_dim)),
            ffn: self.ffn.unwrap_or(preset.ffn),
            vocabulary: self.vocab.unwrap_or(preset.vocabulary),
            context_length: self.ctx.unwrap_or(preset.context_length),
            rms_eps: self.eps.unwrap_or(preset.rms_eps),
            rope_theta: self.theta.unwrap_or(preset.rope_theta),
            rope_freqs: self.rope_freqs || preset.rope_freqs,
            rope_scale: self.rope_scale.or(preset.rope_scale),
            head_type: self.head.unwrap_or(preset.head_type),
            biases: self.biases || preset.biases,
            ffn_biases: self.ffn_biases || preset.ffn_biases,
            output_weight: self.output_weight || preset.output_weight,
            tokenizer: self.tokenizer.unwrap_or(preset.tokenizer),
            pre_tokenizer: self.pre.clone().or(preset.pre_tokenizer),
            seed: self.seed,
            name: preset.name,
            attn_norm_level: preset.attn_norm_level,
        }
    }
}

/// Writes the model and says on stderr what was written.
///
/// # Errors
/// Exit 4: the flags describe no model, or another path is needed. Exit 5: the machine could not write
/// the file.
pub fn run(args: &SynthArgs) -> Result<ExitCode, Failure> {
    if args.vocab_only {
        let bytes = generate::write_vocabulary(&args.spec(), &args.out).map_err(failure)?;
        complain(&format!("{}: {bytes} bytes, no tensors", args.out.display()));
        return Ok(ExitCode::Parity);
    }
    let summary = generate::write_model(&args.spec(), &args.out).map_err(failure)?;
    complain(&format!("{}: {} bytes, {} tensors", args.out.display(), summary.bytes, summary.tensors));
    Ok(ExitCode::Parity)
}

fn failure(error: GenerateError) -> Failure {
    match error {
        GenerateError::Write(engine::Error::Io { path, source, .. }) => Failure::output(&path, source),
        GenerateError::Write(other) => Failure::internal(other),
        // The flags describe no model.
        other => Failure::usage(other),
    }
}

fn presets() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::name)).try_map(|name| name.parse::<Preset>())
}

fn architecture_help() -> String {
    format!("Architecture: {}", Architecture::ALL.map(|architecture| architecture.to_string()).join(" or "))
}

fn head_types() -> impl TypedValueParser<Value = HeadType> {
    PossibleValuesParser::new(HeadType::ALL.map(HeadType::name)).try_map(|name| name.parse::<HeadType>())
}

fn tokenizers() -> impl TypedValueParser<Value = VocabularyKind> {
    PossibleValuesParser::new(VocabularyKind::ALL.map(VocabularyKind::name))
        .try_map(|name| name.parse::<VocabularyKind>())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        synth: SynthArgs,
    }

    fn spec(flags: &str) -> ModelSpec {
        let words = ["synth", "out.gguf"].into_iter().chain(flags.split_whitespace());
        Command::try_parse_from(words).unwrap().synth.spec()
    }

    #[test]
    fn without_flags_it_is_the_small_preset() {
        assert_eq!(spec(""), ModelSpec::preset(Preset::Small));
        assert_eq!(spec("--preset 2b"), ModelSpec::preset(Preset::TwoB));
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let flags = "--preset tiny --seed 9 --arch bitnet-25 --layers 3 --embd 384 --heads 6 --kv-heads 3 \
                     --head-dim 64 --ffn 896 --vocab 600 --ctx 77 --eps 1e-6 --theta 10000 --rope-freqs \
                     --rope-scale 2.5 --head f32 --biases --ffn-biases --output-weight --tokenizer spm --pre llama-bpe";
        let expected = ModelSpec {
            name: "synthetic tiny".to_owned(),
            architecture: Architecture::Bitnet25,
            layers: 3,
            width: 384,
            heads: 6,
            kv_heads: 3,
            head_dim: 64,
            ffn: 896,
            vocabulary: 600,
            context_length: 77,
            rms_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_freqs: true,
            rope_scale: Some(2.5),
            head_type: HeadType::F32,
            biases: true,
            ffn_biases: true,
            output_weight: true,
            tokenizer: VocabularyKind::SentencePiece,
            pre_tokenizer: Some("llama-bpe".to_owned()),
            attn_norm_level: 1.0,
            seed: 9,
        };
        assert_eq!(spec(flags), expected);
    }

    #[test]
    fn a_full_disk_is_not_the_users_mistake_and_the_rest_is() {
        let write = |kind: std::io::ErrorKind| {
            let (path, source) = ("out.gguf".into(), kind.into());
            failure(GenerateError::Write(engine::Error::Io { path, action: "write", source }))
        };
        assert_eq!(write(std::io::ErrorKind::StorageFull).code(), ExitCode::Internal);
        assert_eq!(write(std::io::ErrorKind::NotFound).code(), ExitCode::Usage);
        assert!(write(std::io::ErrorKind::StorageFull).to_string().starts_with("out.gguf: cannot write: "));
        let invalid = spec("--preset tiny --heads 0").validate().unwrap_err();
        assert_eq!(failure(invalid).code(), ExitCode::Usage);
    }

    #[test]
    fn head_dim_follows_width_and_heads_unless_given() {
        assert_eq!(spec("--preset tiny --embd 512").head_dim, 128);
        assert_eq!(spec("--preset tiny --heads 8").head_dim, 32);
        assert_eq!(spec("--preset tiny --heads 8 --head-dim 64").head_dim, 64);
        assert!(spec("--preset tiny --heads 0").validate().is_err());
        assert!(spec("--preset tiny --heads 6").validate().is_err());
    }

    #[test]
    fn unknown_names_are_usage_errors_that_list_the_known_ones() {
        for (flag, known) in
            [("--preset", "tiny"), ("--arch", "bitnet-25"), ("--head", "f16"), ("--tokenizer", "spm")]
        {
            let error = Command::try_parse_from(["synth", "out.gguf", flag, "nonsense"]).err().unwrap();
            assert!(error.to_string().contains(known), "{flag}: {error}");
        }
    }
}
