// A node whose role is to keep blocks: an arena and a fabric, no device and no engine.
#include <caf/actor_cast.hpp>
#include <csignal>

#include "actors/kv_identity.hpp"
#include "actors/kv_store.hpp"
#include "actors/node_runtime.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::uint64_t default_disk_bytes = 8ull << 30;

}  // namespace

result<void> node_runtime::make_store(const node_options& options,
                                      const model::loaded_model& model) {
  auto& info = services_->info;
  const auto& c = model.config;
  // The layout that every device of this build uses; a node of another is refused when it joins.
  gpu::kv_layout layout{c.num_hidden_layers, c.num_key_value_heads, c.head_dim,
                        options.runner.block_tokens, gpu::kv_dtype::f16};
  if (platform_.store_layout) layout = *platform_.store_layout;
  kv_identity_ = kv_identity_of(model, layout, options.runner.quantization);
  info.kv_identity = to_hex(kv_identity_);
  info.identity_text = identity_text_of(info, layout);
  info.device = "host memory";
  info.block_tokens = layout.block_tokens;
  info.block_bytes = layout.payload_bytes() + gpu::fence_bytes;
  const std::uint64_t memory =
      options.store.memory_bytes > 0 ? options.store.memory_bytes : default_kv_memory();
  const std::uint64_t blocks = memory / layout.block_bytes();
  if (blocks < 2)
    return fail(ec::invalid_argument, "--kv-store-memory " + std::to_string(memory) +
                                          " bytes holds less than two blocks of " +
                                          std::to_string(layout.block_bytes()) +
                                          " bytes: raise it");
  info.num_blocks = static_cast<std::uint32_t>(std::min<std::uint64_t>(blocks, 1u << 24));

  services_->puller = std::make_unique<block_puller>(layout, engine::fence_layout(kv_identity_));
  TROUPE_TRY(fabric_, platform_.make_fabric(incarnation{info.start}, options.network, nullptr,
                                            services_->puller->sink()));
  TROUPE_TRY(arena_, fabric_->allocate(info.num_blocks * layout.block_bytes()));
  services_->puller->attach(*fabric_, arena_);
  services_->puller->touch_ahead(platform_.touch_ahead);
  TROUPE_TRY(info.transport_address, fabric_->local_address());

  auto context = std::make_shared<kv_store_context>();
  context->node = services_;
  context->metrics = std::make_shared<store_metrics>(info.name);
  context->options = {info.num_blocks, layout.block_tokens, options.store.ttl,
                      std::chrono::milliseconds(5000), services_->journal};
  context->kv_identity = kv_identity_;
  context->arena = arena_.span();
  context->stride = layout.block_bytes();
  context->sealed_bytes = layout.payload_bytes() + gpu::fence_bytes;
  if (!options.store.disk.empty()) {
    std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error of a write, not the end
    std::error_code made;
    std::filesystem::create_directories(options.store.disk, made);
    if (made)
      return fail(ec::io_error,
                  "--kv-store-disk " + options.store.disk.string() + ": " + made.message());
    const std::uint64_t most =
        options.store.disk_bytes > 0 ? options.store.disk_bytes : default_disk_bytes;
    TROUPE_TRY(context->file,
               engine::block_file::open(options.store.disk / (info.name + ".kv"),
                                        {layout.payload_bytes(), layout.block_tokens, kv_identity_,
                                         info.identity_text, most, services_->journal}));
    if (const auto lost = context->file->stats().unreadable; lost > 0)
      spdlog::warn("the KV store's file: {} records could not be read; their blocks are gone",
                   lost);
    spdlog::info("{} blocks are on the disk, read by {}{}", context->file->stats().recovered,
                 context->file->reads_by(), context->file->direct() ? "" : ", without O_DIRECT");
  }
  services_->load_of_store = [metrics = context->metrics, total = info.num_blocks] {
    node_load l;
    l.blocks_cached = metrics->blocks();
    l.blocks_free = total - std::min(total, l.blocks_cached);
    l.running = metrics->readers();
    return l;
  };
  kv_store_actor actor = system_.spawn(kv_store, context);
  role_ = caf::actor_cast<caf::strong_actor_ptr>(actor);
  tell_of_links({caf::actor_cast<caf::weak_actor_ptr>(actor)});
  return {};
}

}  // namespace troupe::actors
