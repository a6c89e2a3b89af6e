#include "gpu/cuda/sample_batch.hpp"

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "gpu/cuda/rows.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::size_t mask_memory = 16u << 20;  // 1,000 different ones of 128,256 tokens

bool argmax_suffices(const row_sampling& r) {
  return r.way == sampling_way::greedy && !r.logprobs && r.edits.empty() && r.allowed.empty();
}

sampling_task make_task(const row_sampling& r) {
  sampling_task t;
  t.way = r.way;
  t.logprobs = r.logprobs;
  t.num_top = r.num_top;
  t.given = r.given;
  t.top_k = r.top_k;
  t.scale = r.scale;
  t.top_p = r.top_p;
  t.min_p = r.min_p;
  t.random = r.random;
  t.num_edits = static_cast<std::uint32_t>(r.edits.size());
  return t;
}

}  // namespace

result<sample_batch> sample_batch::make(std::uint32_t most_rows, std::uint32_t vocab,
                                        std::uint32_t multiprocessors) {
  TROUPE_CHECK(prepare_sampling());
  sample_batch b;
  b.vocab_ = vocab;
  b.multiprocessors_ = multiprocessors;
  b.samples_.reserve(most_rows);
  TROUPE_TRY(b.tasks_, device_buffer<sampling_task>::make(most_rows, "samples"));
  TROUPE_TRY(b.tasks_host_, pinned_buffer<sampling_task>::make(most_rows, "samples"));
  const std::size_t words = mask_words(vocab);
  const std::size_t masks =
      std::clamp<std::size_t>(mask_memory / (words * sizeof(std::uint64_t)), 1, most_rows);
  TROUPE_TRY(b.masks_, device_buffer<std::uint64_t>::make(masks * words, "masks"));
  TROUPE_TRY(b.masks_host_, pinned_buffer<std::uint64_t>::make(masks * words, "masks"));
  TROUPE_TRY(b.task_samples_, pinned_buffer<row_sample>::make(most_rows, "samples"));
  return b;
}

bool sample_batch::has_room(std::span<const row_sampling> rows) const {
  const std::size_t room = masks_.size() / mask_words(vocab_);
  const auto masked =
      std::count_if(rows.begin(), rows.end(), [](const auto& r) { return !r.allowed.empty(); });
  if (static_cast<std::size_t>(masked) <= room) return true;
  std::unordered_set<const std::uint64_t*> different;
  for (const row_sampling& r : rows)
    if (!r.allowed.empty()) different.insert(r.allowed.data());
  return different.size() <= room;
}

std::uint32_t sample_batch::mask_of(std::span<const std::uint64_t> allowed) {
  if (allowed.empty()) return no_mask;
  const auto next = static_cast<std::uint32_t>(known_masks_.size());
  const auto [known, is_new] = known_masks_.emplace(allowed.data(), next);
  if (is_new) {
    const std::size_t words = mask_words(vocab_);
    TROUPE_ASSERT((next + 1) * words <= masks_.size() && allowed.size() <= words);
    std::uint64_t* to = masks_host_.data() + next * words;
    std::fill(std::copy(allowed.begin(), allowed.end(), to), to + words, ~std::uint64_t{0});
  }
  return known->second;
}

result<void> sample_batch::reserve_edits(std::span<const row_sampling> rows) {
  std::size_t num_edits = 0;
  for (const row_sampling& r : rows) num_edits += r.edits.size();
  if (num_edits <= edits_.size()) return {};
  const std::size_t room = std::bit_ceil(num_edits);
  TROUPE_TRY(edits_, device_buffer<logit_edit>::make(room, "penalties"));
  TROUPE_TRY(edits_host_, pinned_buffer<logit_edit>::make(room, "penalties"));
  return {};
}

result<void> sample_batch::upload(std::span<const row_sampling> rows, cudaStream_t stream) {
  TROUPE_ASSERT(rows.size() <= task_samples_.size());
  num_rows_ = static_cast<std::uint32_t>(rows.size());
  num_tasks_ = 0;
  task_rows_.clear();
  known_masks_.clear();
  TROUPE_CHECK(reserve_edits(rows));
  std::uint32_t first_edit = 0;
  for (std::uint32_t i = 0; i < num_rows_; ++i) {
    const row_sampling& r = rows[i];
    if (argmax_suffices(r)) continue;
    TROUPE_ASSERT(r.num_top <= max_top && r.given < vocab_);
    sampling_task t = make_task(r);
    t.sample = num_tasks_;
    t.row = i;
    t.first_edit = first_edit;
    t.mask = mask_of(r.allowed);
    std::copy(r.edits.begin(), r.edits.end(), edits_host_.data() + first_edit);
    first_edit += t.num_edits;
    tasks_host_.data()[num_tasks_++] = t;
    task_rows_.push_back(i);
  }
  TROUPE_CHECK(take_from_host(tasks_host_.data(), tasks_.data(), num_tasks_ * sizeof(sampling_task),
                              stream));
  TROUPE_CHECK(take_from_host(masks_host_.data(), masks_.data(),
                              known_masks_.size() * mask_words(vocab_) * sizeof(std::uint64_t),
                              stream));
  return take_from_host(edits_host_.data(), edits_.data(), first_edit * sizeof(logit_edit), stream);
}

result<void> sample_batch::enqueue(std::uint32_t first, std::uint32_t count, float* logits,
                                   cudaStream_t stream) {
  const auto begin = std::lower_bound(task_rows_.begin(), task_rows_.end(), first);
  const auto end = std::lower_bound(begin, task_rows_.end(), first + count);
  if (begin == end) return {};
  sampling_arguments a{};
  a.logits = logits;
  a.vocab = vocab_;
  a.first_row = first;
  a.multiprocessors = multiprocessors_;
  a.tasks = tasks_.data() + (begin - task_rows_.begin());
  a.num_tasks = static_cast<std::uint32_t>(end - begin);
  a.edits = edits_.data();
  a.masks = masks_.data();
  a.samples = task_samples_.data();
  return sample_rows(a, stream);
}

std::span<const row_sample> sample_batch::read(const unsigned long long* argmax) {
  samples_.resize(num_rows_);
  std::uint32_t task = 0;
  for (std::uint32_t i = 0; i < num_rows_; ++i) {
    if (task < num_tasks_ && task_rows_[task] == i) {
      samples_[i] = task_samples_.data()[task++];
      continue;
    }
    const unsigned long long key = argmax[i];
    samples_[i] = {};
    samples_[i].token = argmax_index(key);
    if (!argmax_is_finite(key)) samples_[i].status = sample_status::not_finite;
  }
  return samples_;
}

}  // namespace troupe::gpu::cuda
