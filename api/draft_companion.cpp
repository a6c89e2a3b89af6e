#include "api/draft_companion.hpp"

#include <algorithm>
#include <new>

namespace troupe::api {

void draft_companion::arena_deleter::operator()(std::byte* p) const {
  ::operator delete[](p, std::align_val_t{64});
}

draft_companion::~draft_companion() {
  loop_.reset();
}

result<std::unique_ptr<draft_companion>> draft_companion::make(
    std::shared_ptr<const model::loaded_model> model, const gpu::runner_options& runner,
    std::uint32_t max_model_len, std::uint32_t max_sequences, std::chrono::milliseconds delay) {
  std::unique_ptr<draft_companion> d(new draft_companion(delay));
  auto options = runner;
  options.max_batch_tokens = 512;
  TROUPE_TRY(d->runner_, gpu::make_runner(model, options));
  const auto& layout = d->runner_->layout();
  engine::draft_options o;
  o.num_blocks = (max_sequences + 4) * layout.blocks_for(max_model_len);
  o.vocab_size = model->config.vocab_size;
  o.max_model_len = max_model_len;
  o.max_num_seqs = max_sequences;
  const std::size_t bytes = o.num_blocks * layout.block_bytes();
  std::span<std::byte> arena;
  if (d->runner_->kv_memory() == gpu::memory_kind::host) {
    d->memory_.reset(
        static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}, std::nothrow)));
    if (!d->memory_)
      return fail(ec::out_of_memory, "not enough memory for the KV blocks of the draft");
    arena = {d->memory_.get(), bytes};
  } else {
    TROUPE_TRY(arena, d->runner_->allocate_kv(o.num_blocks));
  }
  TROUPE_CHECK(d->runner_->attach_kv(arena, o.num_blocks));
  TROUPE_TRY(auto engine, engine::draft_engine::make(*d->runner_, o));
  actors::draft_loop::hooks hooks;
  hooks.on_step = [self = d.get()](std::vector<engine::draft_run>&& runs, auto) {
    const auto due = std::chrono::steady_clock::now() + self->delay_;
    std::lock_guard lock(self->mutex_);
    for (auto& r : runs) self->inbox_.push_back({due, std::move(r)});
  };
  hooks.on_failure = [](const error&) {};  // there are no more guesses
  d->loop_ = std::make_unique<actors::draft_loop>(std::move(engine), std::move(hooks));
  return d;
}

void draft_companion::send(actors::draft_loop::command c) {
  on_the_way_.push_back({std::chrono::steady_clock::now() + delay_, std::move(c)});
}

void draft_companion::begin(const engine::generation_request& r) {
  sequence s;
  s.tokens = r.prompt;
  s.start = {static_cast<std::uint32_t>(r.prompt.size()), r.sampling};
  sequences_[raw(r.id)] = std::move(s);
}

void draft_companion::follow(std::uint64_t id, sequence& s) {
  std::vector<token_id> news(s.tokens.begin() + s.told, s.tokens.end());
  send(
      [id, first = s.told, news = std::move(news), start = s.start](engine::draft_engine& e, auto) {
        // Messages come in order here, so nothing is ever found missing.
        if (!e.follow(id, first, news, first == 0 ? &start : nullptr)) e.drop(id);
      });
  s.told = static_cast<std::uint32_t>(s.tokens.size());
}

void draft_companion::exchange(engine::engine& e, const engine::events& happened) {
  const bool wanted = e.stats().speculation.draft_wanted;
  for (const auto& t : happened.tokens) {
    auto at = sequences_.find(raw(t.id));
    if (at == sequences_.end()) continue;
    for (const auto& token : t.tokens) at->second.tokens.push_back(token.token);
    if (wanted) follow(at->first, at->second);
  }
  for (const auto& f : happened.finished) {
    send([id = raw(f.id)](engine::draft_engine& d, auto) { d.drop(id); });
    sequences_.erase(raw(f.id));
  }
  const auto now = std::chrono::steady_clock::now();
  for (; !on_the_way_.empty() && on_the_way_.front().due <= now; on_the_way_.pop_front())
    loop_->post_completion(std::move(on_the_way_.front().command));
  std::vector<engine::draft_run> runs;
  {
    std::lock_guard lock(mutex_);
    for (; !inbox_.empty() && inbox_.front().due <= now; inbox_.pop_front())
      runs.push_back(std::move(inbox_.front().run));
  }
  for (auto& r : runs)
    e.offer_draft(request_id{r.key}, 0, r.first, std::move(r.tokens), std::move(r.sureness));
}

}  // namespace troupe::api
