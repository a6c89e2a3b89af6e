#include "actors/node_runtime.hpp"

#include <caf/actor_cast.hpp>
#include <caf/scoped_actor.hpp>
#include <fstream>

#include "actors/decode.hpp"
#include "actors/draft.hpp"
#include "actors/draft_client.hpp"
#include "actors/kv_identity.hpp"
#include "actors/node_agent.hpp"
#include "actors/prefill.hpp"
#include "actors/store_client.hpp"
#include "actors/wire.hpp"
#include "base/log.hpp"
#include "model/tokenizer.hpp"
#include "model/vocabulary.hpp"

namespace troupe::actors {
namespace {

constexpr std::uint64_t most_kv_memory = 1ull << 30;

std::uint64_t available_memory() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::uint64_t kib = 0;
  while (meminfo >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    meminfo.ignore(64, '\n');
  }
  return most_kv_memory;
}

}  // namespace

std::uint64_t default_kv_memory() {
  return std::min(most_kv_memory, available_memory() / 5);
}

namespace {

result<std::uint32_t> blocks_of(const engine_settings& settings, const gpu::model_runner& runner) {
  const gpu::kv_layout& layout = runner.layout();
  const bool on_host = runner.kv_memory() == gpu::memory_kind::host;
  if (settings.num_kv_blocks > 0) return settings.num_kv_blocks;
  const auto bytes = settings.kv_memory_bytes > 0 ? settings.kv_memory_bytes
                     : on_host                    ? default_kv_memory()
                                                  : runner.kv_budget();
  const auto blocks = bytes / layout.block_bytes();
  if (blocks < 2)
    return fail(on_host ? ec::invalid_argument : ec::out_of_memory,
                std::to_string(bytes) + " bytes for KV hold less than two blocks of " +
                    std::to_string(layout.block_bytes()) + " bytes: raise --kv-memory" +
                    (on_host ? "" : " or --gpu-memory-fraction, or take a smaller model"));
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(blocks, 1u << 24));
}

// No request can be longer than the whole arena.
void fit_context(node_info& info) {
  const std::uint64_t holds = std::uint64_t{info.num_blocks} * info.block_tokens;
  if (holds >= info.max_model_len) return;
  spdlog::warn(
      "{}: max_model_len is {} instead of {}: that is what its KV cache can hold; raise "
      "--kv-memory "
      "(on a GPU --gpu-memory-fraction) for longer requests",
      info.name, holds, info.max_model_len);
  info.max_model_len = static_cast<std::uint32_t>(holds);
}

}  // namespace

result<std::unique_ptr<node_runtime>> node_runtime::start(
    caf::actor_system& system, node_platform platform, const node_options& given,
    std::shared_ptr<const model::loaded_model> model, const join_target& target,
    std::shared_ptr<local_nodes> neighbours) {
  const auto begin = std::chrono::steady_clock::now();
  node_options options = given;
  options.engine = sized_for(given.engine, gpu::takes_gpu(given.runner), given.runner.block_tokens);
  auto node = std::unique_ptr<node_runtime>(new node_runtime(system, std::move(platform)));
  auto& info = node->services_->info;
  TROUPE_TRY(info.kind, parse_role(options.role));
  info.start = node->platform_.new_incarnation();
  // Of the incarnation, as in containers every process has the same number.
  info.name = options.name.empty() ? fmt::format("{}-{:06x}", options.role, info.start & 0xFFFFFF)
                                   : options.name;
  info.model_name = options.model_name;
  info.model_digest = to_hex(model->digest);
  node->services_->options.store_replicas = std::max(options.store.replicas, 1u);
  node->services_->options.store_patience = options.store.patience;
  node->services_->neighbours = std::move(neighbours);
  node->services_->connector = node->platform_.connector;
  node->services_->now = node->platform_.now;
  node->services_->metrics = std::make_unique<node_metrics>(info.name, options.role);

  if (info.kind == role::kv_store) {
    TROUPE_CHECK(node->make_store(options, *model));
  } else {
    TROUPE_CHECK(node->make_device(options, model));
    TROUPE_CHECK(info.kind == role::draft ? node->make_draft(options, *model)
                                          : node->make_engine(options, *model));
  }
  TROUPE_CHECK(node->publish(options));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  node->services_->metrics->model_load_seconds.Set(took.count());
  if (node->draft_) node->draft_->metrics->model_load_seconds.Set(took.count());
  node->start_agent(target);
  spdlog::info("{} is ready in {:.2f} s: {}, {} blocks of {} tokens, {}:{}", info.name,
               took.count(), info.device, info.num_blocks, info.block_tokens, info.host, info.port);
  return node;
}

result<void> node_runtime::make_device(const node_options& options,
                                       std::shared_ptr<const model::loaded_model> model) {
  auto& info = services_->info;
  auto runner_options = options.runner;
  runner_options.max_batch_tokens =
      std::max(options.engine.max_num_batched_tokens, runner_options.block_tokens);
  runner_options.max_batch_sequences = options.engine.max_num_seqs + engine::most_branches;
  TROUPE_TRY(runner_, platform_.make_runner(model, runner_options));
  const auto& layout = runner_->layout();
  kv_identity_ = kv_identity_of(*model, layout, runner_options.quantization);
  info.kv_identity = to_hex(kv_identity_);
  info.identity_text = identity_text_of(info, layout);
  info.device = runner_->description();
  info.block_tokens = layout.block_tokens;
  info.block_bytes = layout.payload_bytes() + gpu::fence_bytes;
  info.max_model_len = model->config.max_position_embeddings;
  if (options.engine.max_model_len > 0)
    info.max_model_len = std::min(info.max_model_len, options.engine.max_model_len);
  info.max_num_seqs = options.engine.max_num_seqs;
  TROUPE_TRY(info.num_blocks, blocks_of(options.engine, *runner_));
  fit_context(info);

  services_->puller = std::make_unique<block_puller>(layout, engine::fence_layout(kv_identity_));
  TROUPE_TRY(fabric_, platform_.make_fabric(incarnation{info.start}, options.network,
                                            runner_->device_memory(), services_->puller->sink()));
  const std::uint64_t bytes = std::uint64_t{info.num_blocks} * layout.block_bytes();
  if (runner_->kv_memory() == gpu::memory_kind::host) {
    TROUPE_TRY(arena_, fabric_->allocate(bytes));
  } else {
    TROUPE_TRY(auto device_arena, runner_->allocate_kv(info.num_blocks));
    TROUPE_TRY(arena_, fabric_->register_memory(device_arena.data(), device_arena.size(),
                                                transport::memory_kind::cuda));
  }
  TROUPE_CHECK(runner_->attach_kv(arena_.span().first(bytes), info.num_blocks));
  services_->puller->attach(*fabric_, arena_);
  services_->puller->touch_ahead(platform_.touch_ahead);
  TROUPE_TRY(info.transport_address, fabric_->local_address());
  services_->metrics->weight_bytes.Set(static_cast<double>(runner_->weight_bytes()));
  services_->metrics->kv_bytes.Set(static_cast<double>(bytes));
  return {};
}

result<void> node_runtime::make_engine(const node_options& options,
                                       const model::loaded_model& model) {
  const auto& info = services_->info;
  TROUPE_TRY(auto tokenizer, model::tokenizer::make(model));
  services_->info.vocabulary = to_hex(model::vocabulary_digest(*tokenizer));
  if (model.weights.lm_head.exists() && model.weights.lm_head.rows != model.config.vocab_size)
    return fail(
        ec::unsupported,
        "the model can say only some of its tokens (troupe prune --vocab): use it as a draft");
  engine::engine_options e;
  e.num_blocks = info.num_blocks;
  e.vocab_size = model.config.vocab_size;
  e.max_model_len = info.max_model_len;
  e.max_num_seqs = options.engine.max_num_seqs;
  e.max_num_batched_tokens = options.engine.max_num_batched_tokens;
  e.max_prefill_chunk =
      std::max(options.engine.max_prefill_chunk / info.block_tokens, 1u) * info.block_tokens;
  e.max_waiting = options.engine.max_waiting;
  e.inter_token_target = options.engine.inter_token_target;
  e.lease = options.engine.lease;
  e.prefix_caching = options.engine.prefix_caching;
  e.speculation = options.engine.speculation;
  e.end_of_generation = tokenizer->end_of_generation();
  e.kv_identity = kv_identity_;
  if (!e.prefix_caching) services_->journal.reset();
  e.journal = services_->journal;
  e.owner_incarnation = info.start;
  e.pass_clock = platform_.pass_clock;
  e.vocabulary = [tokenizer, size = e.vocab_size, ends = e.end_of_generation] {
    return std::make_shared<const engine::structured::vocabulary>(size, *tokenizer, ends);
  };
  TROUPE_TRY(auto engine, engine::engine::make(*runner_, arena_.span(), e));

  // The actors first: the loop's hooks and the puller's events are messages to them.
  store_client_actor client = system_.spawn(store_client, services_, kv_identity_);
  services_->store_client = caf::actor_cast<caf::strong_actor_ptr>(client);
  draft_client_actor drafts;
  if (info.kind == role::decode) {
    drafts = system_.spawn(draft_client, services_);
    services_->draft_client = caf::actor_cast<caf::strong_actor_ptr>(drafts);
  }
  role_ = info.kind == role::decode
              ? caf::actor_cast<caf::strong_actor_ptr>(system_.spawn(decode, services_))
              : caf::actor_cast<caf::strong_actor_ptr>(system_.spawn(prefill, services_));
  std::vector<caf::weak_actor_ptr> hear_links{caf::actor_cast<caf::weak_actor_ptr>(client)};
  if (info.kind == role::decode) hear_links.push_back(caf::actor_cast<caf::weak_actor_ptr>(role_));
  tell_of_links(std::move(hear_links));
  engine_driver::hooks hooks;
  hooks.on_step = [actor = caf::actor_cast<engine_listener>(role_), client, drafts,
                   services = services_.get()](engine::step_report&& r,
                                               std::chrono::nanoseconds took) {
    if (r.worked) services->metrics->on_step(r, std::chrono::duration<double>(took).count());
    if (r.happened.empty()) return;
    const bool computed = !r.happened.computed.empty();
    const engine_happened happened{std::make_shared<const engine::events>(std::move(r.happened))};
    if (computed) caf::anon_send(client, happened);
    // Ends always: its client may have heard of the beginning while there was a draft.
    if (drafts && (services->drafts_ready || !happened.events->finished.empty()))
      caf::anon_send(drafts, happened);
    caf::anon_send(actor, happened);
  };
  hooks.on_failure = [this](const error& why) { fail_with(why); };
  services_->loop = platform_.make_driver(std::move(engine), std::move(hooks));
  return {};
}

void node_runtime::tell_of_links(std::vector<caf::weak_actor_ptr> listeners) {
  services_->puller->on_peer_down = [all = std::move(listeners)](incarnation peer,
                                                                 const error& why) {
    // Our own disconnect is no news, and may be told when the peer is connected anew.
    if (why.code == ec::canceled) return;
    for (const auto& weak : all)
      if (auto strong = weak.lock())
        caf::anon_send(caf::actor_cast<link_listener>(strong), link_lost{raw(peer), why});
  };
}

result<void> node_runtime::publish(const node_options& options) {
  auto& info = services_->info;
  info.host = options.network.host;
  TROUPE_TRY(info.port, platform_.publish(info.kind, role_, options.network));
  services_->neighbours->add(info.start, role_);
  return {};
}

void node_runtime::start_agent(const join_target& target) {
  auto context = std::make_shared<agent_context>();
  context->node = services_;
  context->directory = target.directory;
  context->directory_host = target.host;
  context->directory_port = target.port;
  if (services_->info.kind == role::decode || services_->info.kind == role::kv_store)
    context->role = caf::actor_cast<membership_listener>(role_);
  context->store_client = caf::actor_cast<membership_listener>(services_->store_client);
  context->draft_client = caf::actor_cast<membership_listener>(services_->draft_client);
  context->on_refused = [this](const error& e) { fail_with(e); };
  context->on_drained = [this] { drained_ = true; };
  auto agent = system_.spawn(node_agent, context);
  agent_ = caf::actor_cast<caf::strong_actor_ptr>(agent);
}

void node_runtime::fail_with(const error& e) {
  spdlog::error("{} leaves: {}", services_->info.name, to_string(e));
  std::lock_guard lock(mutex_);
  if (!failure_) failure_ = e;
}

std::optional<error> node_runtime::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void node_runtime::drain() {
  services_->state = node_state::draining;
  caf::anon_send(caf::actor_cast<node_agent_actor>(agent_), drain_request{});
}

node_runtime::~node_runtime() {
  // Wait for the actors, since their handlers use what is destroyed next.
  caf::scoped_actor self{system_};
  auto client = services_->store_client;
  auto drafts = services_->draft_client;
  for (auto* actor : {&agent_, &role_, &client, &drafts}) {
    if (!*actor) continue;
    auto handle = caf::actor_cast<caf::actor>(*actor);
    self->send_exit(handle, caf::exit_reason::user_shutdown);
    self->wait_for(handle);
    *actor = nullptr;
  }
  // The loop's thread ends before the arena goes with the fabric; pulls that end meanwhile still find the loop.
  if (services_->loop) services_->loop->stop();
  if (draft_ && draft_->loop) draft_->loop->stop();
  services_->draft_client = nullptr;
  services_->store_client = nullptr;  // the services and the client refer to each other
  if (services_->puller) services_->puller->stop_touching();
  if (fabric_) fabric_->close();
  services_->loop.reset();
  // A fabric that died leaves it pulls whose completions refer to the services.
  services_->puller.reset();
}

}  // namespace troupe::actors
