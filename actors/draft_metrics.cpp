#include "actors/draft_metrics.hpp"

namespace troupe::actors {

draft_metrics::draft_metrics(const std::string& node)
    : device_metrics({{"node", node}, {"role", "draft"}}),
      passes_(counter("troupe_draft_passes_total", "Forward passes of the draft model")),
      prompt_tokens_(counter("troupe_draft_prompt_tokens_total",
                             "Tokens of the target that the draft model read several at a time")),
      drafted_(counter("troupe_draft_tokens_total", "Tokens that the draft model guessed")),
      agreed_(counter("troupe_draft_agreed_tokens_total", "Of them, those that the target chose")),
      cut_(counter("troupe_draft_cut_tokens_total", "Of them, those that the target did not")),
      evictions_(
          counter("troupe_draft_evictions_total", "Sequences whose KV gave way to that of others")),
      sequences_(gauge("troupe_draft_sequences", "Sequences that the draft model follows")),
      blocks_free_(gauge("troupe_draft_blocks_free", "KV blocks of the draft model in no use")) {}

void draft_metrics::update(const engine::draft_stats& now) {
  std::lock_guard lock(mutex_);
  advance(passes_, last_.passes, now.passes);
  advance(prompt_tokens_, last_.prompt_rows, now.prompt_rows);
  advance(drafted_, last_.drafted, now.drafted);
  advance(agreed_, last_.agreed, now.agreed);
  advance(cut_, last_.cut, now.cut);
  advance(evictions_, last_.evictions, now.evictions);
  sequences_.Set(now.sequences);
  blocks_free_.Set(now.blocks_free);
  last_ = now;
}

}  // namespace troupe::actors
