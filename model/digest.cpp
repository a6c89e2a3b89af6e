#include "model/digest.hpp"

#include <algorithm>
#include <map>

#include "model/metadata.hpp"

namespace troupe::model {

namespace {

template <class T>
void add(hash128_stream& hash, T number) {
  hash.update(std::as_bytes(std::span(&number, 1)));
}

// Length first, so that no two lists of texts run together alike.
void add(hash128_stream& hash, std::string_view text) {
  add(hash, static_cast<std::uint64_t>(text.size()));
  hash.update(std::as_bytes(std::span(text)));
}

bool decides_answers(std::string_view key) {
  // `general.` is for people and for layout of the file, `split.` for its shards.
  return key == "general.architecture" ||
         !(key.starts_with("general.") || key.starts_with("split."));
}

void add(hash128_stream& hash, const metadata_value& value) {
  add(hash, static_cast<std::uint32_t>(value.type));
  add(hash, static_cast<std::uint32_t>(value.element));
  add(hash, value.text);
  add(hash, static_cast<std::uint64_t>(value.bytes.size()));
  hash.update(value.bytes);
  add(hash, static_cast<std::uint64_t>(value.strings.size()));
  for (auto text : value.strings) add(hash, text);
}

}  // namespace

hash128_t digest(const model_source& source) {
  // In the order of the file: sequential reads, with the kernel's longest readahead, where the pages are not in memory.
  for (const auto& file : source.files) file->expect_sequential_reads(true);
  std::vector<const stored_tensor*> order;
  for (const auto& entry : source.tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](auto* a, auto* b) { return a->data.data() < b->data.data(); });
  std::map<std::string_view, hash128_t> tensors;
  for (auto* entry : order) {
    hash128_stream hash;
    add(hash, entry->raw_type);
    for (auto extent : entry->shape) add(hash, extent);
    hash.update(entry->data);
    if (entry->scales.count > 0) {
      add(hash, static_cast<std::uint32_t>(entry->scales.type));
      add(hash, entry->scales.count);
      if (entry->scales.by_blocks()) {
        add(hash, entry->scales.block_rows);
        add(hash, entry->scales.block_columns);
      }
      hash.update(entry->scales.data);
    }
    tensors.emplace(entry->name, hash.digest());
  }
  for (const auto& file : source.files) file->expect_sequential_reads(false);
  hash128_stream hash;
  add(hash, static_cast<std::uint32_t>(source.interleaved_rope));
  for (const auto& [key, value] : source.meta->values()) {
    if (!decides_answers(key)) continue;
    add(hash, std::string_view(key));
    add(hash, value);
  }
  for (const auto& [name, one] : tensors) {
    add(hash, name);
    add(hash, one.high);
    add(hash, one.low);
  }
  return hash.digest();
}

}  // namespace troupe::model
