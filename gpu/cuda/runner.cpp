#include "gpu/cuda/runner.hpp"

#include <algorithm>
#include <bit>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "gpu/cuda/device_memory.hpp"
#include "gpu/cuda/forward.hpp"
#include "gpu/cuda/sample_batch.hpp"
#include "gpu/cuda/synthetic.hpp"
#include "gpu/device_registry.hpp"

namespace troupe::gpu {
namespace cuda {
namespace {

std::uint32_t padded_rows(std::uint32_t rows) {
  if (rows <= 8) return std::bit_ceil(rows);
  const std::uint32_t step = rows <= 64 ? 8 : rows <= 128 ? 16 : 32;
  return (rows + step - 1) / step * step;
}

class cuda_runner final : public model_runner {
 public:
  cuda_runner(device_info device, model::model_config config, const runner_options& options,
              const kv_layout& layout, const forward_limits& limits)
      : device_(std::move(device)),
        config_(std::move(config)),
        options_(options),
        layout_(layout),
        limits_(limits) {}
  ~cuda_runner() override {
    cudaSetDevice(device_.index);
    if (stream_ != nullptr) cudaStreamSynchronize(stream_);
    drop_graphs();
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    if (began_ != nullptr) cudaEventDestroy(began_);
    if (ended_ != nullptr) cudaEventDestroy(ended_);
  }

  result<void> start(device_weights weights) {
    // Before the streams that move KV blocks (device_memory.hpp), whose priority is the lowest.
    int low = 0, high = 0;
    TROUPE_CHECK(checked(cudaDeviceGetStreamPriorityRange(&low, &high), "asking for priorities"));
    TROUPE_CHECK(checked(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, high),
                         "creating a stream"));
    TROUPE_CHECK(checked(cudaEventCreate(&began_), "making an event"));
    TROUPE_CHECK(checked(cudaEventCreate(&ended_), "making an event"));
    TROUPE_TRY(memory_, gpu_memory::make(device_));
    packed_ = !weights.layers.empty() && weights.layers[0].down.is_packed();
    fp8_ = packed_ && is_fp8(weights.layers[0].down);
    TROUPE_TRY(auto pass,
               forward_pass::make(config_, std::move(weights), limits_, layout_, stream_));
    pass_.emplace(std::move(pass));
    TROUPE_TRY(samples_, sample_batch::make(std::max(limits_.rows, forward_pass::small_rows),
                                            config_.vocab_size, limits_.multiprocessors));
    return {};
  }

  const kv_layout& layout() const override { return layout_; }
  memory_kind kv_memory() const override { return memory_kind::cuda; }
  result<std::span<std::byte>> allocate_kv(std::uint32_t num_blocks) override;
  std::shared_ptr<transport::device_memory> device_memory() override { return memory_; }
  result<void> attach_kv(std::span<std::byte> arena, std::uint32_t num_blocks) override;
  result<void> submit(const batch& b) override;
  result<step_output> collect() override;
  std::size_t weight_bytes() const override { return pass_->bytes(); }
  std::uint64_t kv_budget() const override;
  std::string description() const override {
    return device_.name + " (cuda:" + std::to_string(device_.index) + "), " +
           (fp8_      ? "FP8"
            : packed_ ? "quantized"
                      : "bf16") +
           " weights" + (limits_.exact ? ", exact" : "");
  }

 private:
  // Rows, items, single, the attention's tile.
  using graph_key = std::tuple<std::uint32_t, std::uint32_t, bool, attention_tile>;
  static constexpr std::size_t max_graphs = 128;

  result<void> run_graph(const forward_shape& shape);
  result<cudaGraphExec_t> capture(const forward_shape& shape);
  result<void> capture_common();
  result<void> run_launches(forward_shape shape, const batch& b);
  result<void> prepare_results(const batch& b, std::uint32_t logits);
  result<void> take_logits(std::uint32_t first, std::uint32_t count);
  void drop_graphs() {
    for (auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
    graphs_.clear();
  }

  device_info device_;
  model::model_config config_;
  runner_options options_;
  kv_layout layout_;
  forward_limits limits_;
  bool packed_ = false, fp8_ = false;
  cudaStream_t stream_ = nullptr;
  std::optional<forward_pass> pass_;
  std::shared_ptr<gpu_memory> memory_;
  std::uint32_t num_blocks_ = 0;
  step_plan plan_;
  std::map<graph_key, cudaGraphExec_t> graphs_;
  pinned_buffer<float> logits_host_;
  sample_batch samples_;
  cudaEvent_t began_ = nullptr, ended_ = nullptr;  // of the pass
  std::uint32_t pending_logits_ = 0;
  bool pending_ = false, pending_samples_ = false;
};

result<std::span<std::byte>> cuda_runner::allocate_kv(std::uint32_t num_blocks) {
  return memory_->allocate(num_blocks * layout_.block_bytes(), "KV blocks");
}

std::uint64_t cuda_runner::kv_budget() const {
  constexpr std::uint64_t reserve = 256u << 20;  // graphs, staging's and the driver's own
  std::size_t free = 0, total = 0;
  if (cudaSetDevice(device_.index) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess)
    return 0;
  const double fraction =
      options_.gpu_memory_fraction > 0 ? options_.gpu_memory_fraction : default_gpu_memory_fraction;
  const auto share = static_cast<std::uint64_t>(fraction * static_cast<double>(total));
  const std::uint64_t held = pass_->bytes() + reserve;
  return std::min<std::uint64_t>(share > held ? share - held : 0,
                                 free > reserve ? free - reserve : 0);
}

result<void> cuda_runner::attach_kv(std::span<std::byte> arena, std::uint32_t num_blocks) {
  TROUPE_CHECK(checked(cudaSetDevice(device_.index), "choosing the GPU"));
  if (num_blocks == 0 || arena.size() < num_blocks * layout_.block_bytes()) {
    return fail(ec::invalid_argument, "a KV arena of " + std::to_string(arena.size()) +
                                          " bytes cannot hold " + std::to_string(num_blocks) +
                                          " blocks of " + std::to_string(layout_.block_bytes()));
  }
  cudaPointerAttributes where{};
  TROUPE_CHECK(checked(cudaPointerGetAttributes(&where, arena.data()), "looking at the KV arena"));
  if (where.type != cudaMemoryTypeDevice || where.device != device_.index) {
    return fail(ec::invalid_argument,
                "the KV arena is not memory of cuda:" + std::to_string(device_.index) +
                    "; take it from allocate_kv");
  }
  drop_graphs();  // they hold the old arena
  num_blocks_ = num_blocks;
  TROUPE_CHECK(pass_->attach(arena.data(), num_blocks));
  return capture_common();
}

result<void> cuda_runner::submit(const batch& b) {
  TROUPE_ASSERT(num_blocks_ > 0 && !pending_);
  const std::uint32_t rows = b.num_rows(), logits = b.num_logits();
  TROUPE_ASSERT(rows > 0 && rows <= limits_.rows);
  if (b.sequences.size() > limits_.sequences) {
    return fail(ec::invalid_argument,
                std::to_string(b.sequences.size()) + " sequences in one batch; at most " +
                    std::to_string(limits_.sequences) + " (max_batch_sequences)");
  }
  for (const auto& s : b.sequences) {
    if (s.first_position + s.tokens.size() > config_.max_position_embeddings) {
      return fail(ec::context_exceeded, "a sequence is longer than the model's context of " +
                                            std::to_string(config_.max_position_embeddings));
    }
  }
  TROUPE_CHECK(checked(cudaSetDevice(device_.index), "choosing the GPU"));
  TROUPE_CHECK(memory_->wait_for_fences(stream_));
  TROUPE_CHECK(checked(cudaEventRecord(began_, stream_), "starting a forward pass"));
  plan_.build(b, pass_->planning());
  forward_shape shape{rows, logits, !plan_.every_row_has_logits, plan_.single, plan_.rounds};
  const bool decode = rows <= forward_pass::small_rows && plan_.every_row_has_logits &&
                      plan_.rounds.size() == 1 && plan_.rounds[0].tile != attention_tile::wide &&
                      padded_rows(rows) <= limits_.logits && padded_rows(rows) <= limits_.rows;
  attention_round round;
  if (decode) {
    shape.rows = shape.logits = padded_rows(rows);
    round = plan_.rounds[0];
    round.items = std::bit_ceil(round.items);
    shape.rounds = {&round, 1};
  }
  TROUPE_CHECK(pass_->upload(plan_, shape, stream_));
  TROUPE_CHECK(prepare_results(b, logits));
  if (decode) {
    TROUPE_CHECK(run_graph(shape));
    // What to sample is made ready while the layers run, and sent behind them.
    if (pending_samples_) TROUPE_CHECK(samples_.upload(b.sampling, stream_));
    TROUPE_CHECK(take_logits(0, logits));
  } else {
    TROUPE_CHECK(run_launches(shape, b));
  }
  TROUPE_CHECK(checked(cudaEventRecord(ended_, stream_), "ending a forward pass"));
  pending_ = true;
  return {};
}

// Logits come in pieces of as many rows as their buffer on the device has.
result<void> cuda_runner::run_launches(forward_shape shape, const batch& b) {
  shape.gather = shape.gather || shape.logits > limits_.logits;
  TROUPE_TRY(const layer_output last, pass_->enqueue_layers(shape, stream_));
  if (pending_samples_) TROUPE_CHECK(samples_.upload(b.sampling, stream_));
  for (std::uint32_t first = 0; first < shape.logits; first += limits_.logits) {
    const std::uint32_t count = std::min(limits_.logits, shape.logits - first);
    TROUPE_CHECK(pass_->enqueue_logits(shape, last, first, count, stream_));
    TROUPE_CHECK(take_logits(first, count));
  }
  return {};
}

result<void> cuda_runner::run_graph(const forward_shape& shape) {
  const attention_round& round = shape.rounds[0];
  const graph_key key{shape.rows, round.items, shape.single, round.tile};
  auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    if (memory_->is_mapping()) return pass_->enqueue(shape, stream_);
    if (graphs_.size() >= max_graphs) drop_graphs();
    TROUPE_TRY(const cudaGraphExec_t graph, capture(shape));
    found = graphs_.emplace(key, graph).first;
  }
  return checked(cudaGraphLaunch(found->second, stream_), "launching a decode step");
}

// The steps of any number of sequences whose contexts need not be split; others are captured when they come.
result<void> cuda_runner::capture_common() {
  const std::uint32_t most = std::min({forward_pass::small_rows, limits_.rows, limits_.logits});
  const attention_tile tile = tile_for(pass_->planning(), pass_->planning().shape.group());
  for (std::uint32_t rows = 1; rows <= most; rows = padded_rows(rows + 1)) {
    const attention_round round{tile, 0, std::bit_ceil(rows)};
    TROUPE_TRY(const cudaGraphExec_t graph, capture({rows, rows, false, true, {&round, 1}}));
    graphs_.emplace(graph_key{rows, round.items, true, tile}, graph);
  }
  return {};
}

result<cudaGraphExec_t> cuda_runner::capture(const forward_shape& shape) {
  TROUPE_CHECK(checked(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
                       "capturing a decode step"));
  const auto enqueued = pass_->enqueue(shape, stream_);
  cudaGraph_t graph = nullptr;
  const auto ended = checked(cudaStreamEndCapture(stream_, &graph), "capturing a decode step");
  cudaGraphExec_t executable = nullptr;
  auto made = !enqueued ? enqueued : ended;
  if (made)
    made = checked(cudaGraphInstantiate(&executable, graph, 0), "making a decode step's graph");
  if (graph != nullptr) cudaGraphDestroy(graph);
  TROUPE_CHECK(made);
  return executable;
}

result<void> cuda_runner::prepare_results(const batch& b, std::uint32_t logits) {
  pending_logits_ = logits;
  pending_samples_ = !b.sampling.empty() && samples_.has_room(b.sampling);
  TROUPE_ASSERT(b.sampling.empty() || b.sampling.size() == logits);
  if (pending_samples_) return {};
  const std::size_t count = std::size_t{logits} * config_.vocab_size;
  if (logits_host_.size() < count) {
    const std::size_t capacity =
        std::min<std::size_t>(std::bit_ceil(logits), limits_.rows) * config_.vocab_size;
    TROUPE_TRY(logits_host_, pinned_buffer<float>::make(std::max(capacity, count), "logits"));
  }
  return {};
}

// Rows [first, + count) of the batch's logits are in the device's buffer, until the next piece comes.
result<void> cuda_runner::take_logits(std::uint32_t first, std::uint32_t count) {
  if (pending_samples_) return samples_.enqueue(first, count, pass_->logits(), stream_);
  return checked(
      cudaMemcpyAsync(logits_host_.data() + std::size_t{first} * config_.vocab_size,
                      pass_->logits(), std::size_t{count} * config_.vocab_size * sizeof(float),
                      cudaMemcpyDeviceToHost, stream_),
      "fetching logits");
}

result<step_output> cuda_runner::collect() {
  TROUPE_ASSERT(pending_);
  pending_ = false;
  TROUPE_CHECK(checked(cudaSetDevice(device_.index), "choosing the GPU"));
  TROUPE_CHECK(finish(ended_, "waiting for a forward pass"));
  step_output out;
  float milliseconds = 0;
  if (cudaEventElapsedTime(&milliseconds, began_, ended_) == cudaSuccess)
    out.device_seconds = milliseconds * 1e-3;
  if (pending_samples_)
    out.samples = samples_.read(pass_->argmax());
  else
    out.logits = {logits_host_.data(), std::size_t{pending_logits_} * config_.vocab_size};
  return out;
}

}  // namespace

result<void> check_supported(const model::model_config& c, const runner_options& options) {
  const auto refuse = [](const std::string& what) {
    return fail(ec::unsupported,
                "the CUDA device cannot run this model: " + what + "; use --device cpu");
  };
  if (c.head_dim != 64 && c.head_dim != 128)
    return refuse("heads of " + std::to_string(c.head_dim) + " (64 and 128 work)");
  if (c.num_key_value_heads == 0 || c.num_attention_heads % c.num_key_value_heads != 0 ||
      c.num_attention_heads / c.num_key_value_heads > 64) {
    return refuse(std::to_string(c.num_attention_heads) + " heads over " +
                  std::to_string(c.num_key_value_heads) + " KV heads");
  }
  if (c.hidden_size % 8 != 0 || c.intermediate_size % 8 != 0 || c.hidden_size > 16384) {
    return refuse("widths of " + std::to_string(c.hidden_size) + " and " +
                  std::to_string(c.intermediate_size));
  }
  if (options.block_tokens == 0 || options.block_tokens % 16 != 0) {
    return fail(ec::invalid_argument, "block_tokens is " + std::to_string(options.block_tokens) +
                                          "; the CUDA device needs a multiple of 16");
  }
  return {};
}

result<std::unique_ptr<model_runner>> make_runner_over(const device_info& device,
                                                       const model::model_config& config,
                                                       device_weights weights,
                                                       const runner_options& options) {
  kv_layout layout;
  layout.num_layers = config.num_hidden_layers;
  layout.num_kv_heads = config.num_key_value_heads;
  layout.head_dim = config.head_dim;
  layout.block_tokens = options.block_tokens;
  layout.dtype = kv_dtype::f16;
  forward_limits limits;
  limits.rows = options.max_batch_tokens;
  limits.sequences = options.max_batch_sequences;
  limits.logits = std::max(options.max_batch_sequences,
                           std::min(options.max_batch_tokens, forward_pass::small_rows));
  limits.multiprocessors = device.multiprocessors;
  limits.exact = options.exact;
  auto runner = std::make_unique<cuda_runner>(device, config, options, layout, limits);
  TROUPE_CHECK(runner->start(std::move(weights)));
  return std::unique_ptr<model_runner>(std::move(runner));
}

}  // namespace cuda

result<void> check_cuda_device(const std::string& device) {
  TROUPE_TRY([[maybe_unused]] const cuda::device_info found, cuda::open_device(device));
  return {};
}

result<std::unique_ptr<model_runner>> make_cuda_runner(
    std::shared_ptr<const model::loaded_model> model, const runner_options& options) {
  if (!model->synthetic.empty()) return cuda::make_synthetic_runner(model->synthetic, options);
  TROUPE_TRY(const cuda::device_info device, cuda::open_device(options.device));
  TROUPE_CHECK(cuda::check_supported(model->config, options));
  cudaStream_t stream = nullptr;
  TROUPE_CHECK(cuda::checked(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                             "creating a stream"));
  auto weights =
      cuda::upload_weights(*model, options.quantization == "fp8", options.progress, stream);
  cudaStreamDestroy(stream);
  if (!weights) return tl::unexpected<error>(std::move(weights).error());
  return cuda::make_runner_over(device, model->config, std::move(*weights), options);
}

}  // namespace troupe::gpu
