// Flags about making models and about the drafts that they are made for.
#include "api/command_flags.hpp"

namespace troupe::api {

void add_drafts(CLI::App& serve, serve_config& c) {
  serve
      .add_option("--draft", c.draft, "Draft nodes to start: they guess tokens with --draft-model")
      ->check(within(0, 64))
      ->group("Draft");
  serve
      .add_option("--draft-model", c.draft_model,
                  "A smaller model of the same vocabulary, for drafts (see troupe prune)")
      ->group("Draft");
  serve.add_option("--draft-device", c.draft_device, "Device of drafts (default: --device)")
      ->group("Draft");
  serve
      .add_option("--draft-threads", c.draft_threads,
                  "Threads of a draft on the host device (default: --threads)")
      ->check(within(1, 1024))
      ->group("Draft");
}

void add_model_makers(builder& b) {
  auto* quantize = b.app.add_subcommand("quantize", "Write a model file with smaller weights");
  quantize->fallthrough(false);
  quantize->add_option("IN", b.quantize.in, "GGUF file")->required();
  quantize->add_option("OUT", b.quantize.out, "GGUF file to write")->required();
  quantize
      ->add_option("--type", b.quantize.type,
                   "Of weight matrices: F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, or keep")
      ->required();
  quantize->add_option("--embedding-type", b.quantize.embedding_type,
                       "Of the token embeddings and the output (default: as --type)");

  auto* prune = b.app.add_subcommand("prune", "Write a model of parts of another: a draft");
  prune->fallthrough(false);
  prune->add_option("IN", b.prune.in, "GGUF file")->required();
  prune->add_option("OUT", b.prune.out, "GGUF file to write")->required();
  auto* layers = prune->add_option("--layers", b.prune.layers, "Layers to keep, e.g. 0-9,28,29");
  prune
      ->add_option("--keep", b.prune.keep,
                   "Keep so many layers instead, searched for: those without which it guesses best "
                   "what the whole model says; takes minutes")
      ->check(within(1, 100'000))
      ->excludes(layers);
  auto* vocab =
      prune
          ->add_option("--vocab", b.prune.vocab,
                       "Let the output be of so many tokens only: the special ones, those that the "
                       "texts of --text have most often, then the tokenizer's first. For drafts on "
                       "the host device")
          ->check(within(1, 1 << 24));
  prune->add_option("--text", b.prune.texts, "Text file for --vocab; may be repeated")
      ->needs(vocab);
}

}  // namespace troupe::api
