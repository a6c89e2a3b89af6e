// A node whose role is to guess: a device and a draft engine, and nothing that others read.
#include <caf/actor_cast.hpp>

#include "actors/draft.hpp"
#include "actors/node_runtime.hpp"
#include "model/tokenizer.hpp"
#include "model/vocabulary.hpp"

namespace troupe::actors {

result<void> node_runtime::make_draft(const node_options& options,
                                      const model::loaded_model& model) {
  auto& info = services_->info;
  TROUPE_TRY(const auto tokenizer, model::tokenizer::make(model));
  info.vocabulary = to_hex(model::vocabulary_digest(*tokenizer));
  engine::draft_options o;
  o.num_blocks = info.num_blocks;
  o.vocab_size = model.config.vocab_size;
  o.max_model_len = info.max_model_len;
  o.max_num_seqs = info.max_num_seqs;
  o.max_batch_tokens = std::max(options.engine.max_num_batched_tokens, info.block_tokens);
  o.ahead = std::max(2u, options.engine.speculation.max_tokens * 3 / 2);
  o.end_of_generation = tokenizer->end_of_generation();
  TROUPE_TRY(auto engine, engine::draft_engine::make(*runner_, o));

  draft_ = std::make_shared<draft_context>();
  draft_->node = services_;
  draft_->metrics = std::make_shared<draft_metrics>(info.name);
  draft_->metrics->weight_bytes.Set(static_cast<double>(runner_->weight_bytes()));
  draft_->metrics->kv_bytes.Set(
      static_cast<double>(std::uint64_t{info.num_blocks} * runner_->layout().block_bytes()));
  draft_actor actor = system_.spawn(draft, draft_);
  role_ = caf::actor_cast<caf::strong_actor_ptr>(actor);
  draft_driver::hooks hooks;
  hooks.on_step = [weak = caf::actor_cast<caf::weak_actor_ptr>(actor)](
                      std::vector<engine::draft_run>&& runs, auto) {
    const auto strong = weak.lock();
    if (!strong || runs.empty()) return;
    draft_happened m;
    for (auto& r : runs)
      m.guesses.push_back({r.key, 0, r.first, std::move(r.tokens), std::move(r.sureness)});
    caf::anon_send(caf::actor_cast<draft_actor>(strong), std::move(m));
  };
  hooks.on_failure = [this](const error& why) { fail_with(why); };
  draft_->loop = platform_.make_draft_driver(std::move(engine), std::move(hooks));
  services_->load_of_store = [context = std::weak_ptr(draft_), total = info.num_blocks] {
    node_load l;
    const auto c = context.lock();
    if (!c) return l;
    const auto s = c->loop->stats();
    l.running = s.sequences;
    l.blocks_free = s.blocks_free;
    l.blocks_writing = total - s.blocks_free;
    l.generated_tokens = s.drafted;
    l.prompt_tokens = s.prompt_rows;
    return l;
  };
  return {};
}

}  // namespace troupe::actors
