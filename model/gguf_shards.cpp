// Files to parser: maps one GGUF or all its shards (NAME-00001-of-0000N.gguf, as gguf-split writes
// them).
#include <cstdio>
#include <unordered_set>

#include "model/gguf.hpp"
#include "model/mapped_file.hpp"

namespace troupe::model {

namespace {

constexpr std::uint32_t max_shards = 1024;

// "-00001-of-00006.gguf"
std::string shard_suffix(std::uint32_t number, std::uint32_t count) {
  char text[32];
  std::snprintf(text, sizeof text, "-%05u-of-%05u.gguf", number, count);
  return text;
}

tl::unexpected<error> bad_shard(const metadata& meta, std::string detail) {
  return fail(ec::corrupt_file, meta.source() + ": " + std::move(detail));
}

result<void> add_shard(const std::filesystem::path& path, std::uint32_t index, std::uint32_t count,
                       model_source& into) {
  TROUPE_TRY(auto file, mapped_file::open(path));
  TROUPE_TRY(auto parsed, parse_gguf(file->bytes(), path.string()));
  TROUPE_TRY(auto number, parsed.meta->get<std::uint32_t>("split.no"));
  TROUPE_TRY(auto its_count, parsed.meta->get<std::uint32_t>("split.count"));
  if (number != index || its_count != count)
    return bad_shard(*parsed.meta, "is shard " + std::to_string(number) + " of " +
                                       std::to_string(its_count) +
                                       " by its split.no and split.count, its name says otherwise");
  into.tensors.insert(into.tensors.end(), std::make_move_iterator(parsed.tensors.begin()),
                      std::make_move_iterator(parsed.tensors.end()));
  into.file_bytes += file->bytes().size();
  into.files.push_back(std::move(file));
  return {};
}

result<void> add_other_shards(const std::filesystem::path& first, std::uint32_t count,
                              model_source& into) {
  if (count > max_shards)
    return bad_shard(*into.meta, "split.count is " + std::to_string(count) + ", more than " +
                                     std::to_string(max_shards));
  const std::string name = first.filename().string(), suffix = shard_suffix(1, count);
  TROUPE_TRY(auto number, into.meta->get_or<std::uint32_t>("split.no", 0));
  if (number != 0 || !name.ends_with(suffix))
    return fail(ec::invalid_argument, into.meta->source() + ": is one of " + std::to_string(count) +
                                          " shards; give the first, whose name ends with " +
                                          suffix);
  const std::string stem = name.substr(0, name.size() - suffix.size());
  for (std::uint32_t i = 1; i < count; ++i)
    TROUPE_CHECK(
        add_shard(first.parent_path() / (stem + shard_suffix(i + 1, count)), i, count, into));
  TROUPE_TRY(auto total,
             into.meta->get_or<std::uint64_t>("split.tensors.count", into.tensors.size()));
  if (total != into.tensors.size())
    return bad_shard(*into.meta, "the shards hold " + std::to_string(into.tensors.size()) +
                                     " tensors, split.tensors.count says " + std::to_string(total));
  std::unordered_set<std::string_view> names;
  for (const auto& entry : into.tensors)
    if (!names.insert(entry.name).second)
      return bad_shard(*into.meta, "tensor " + printable(entry.name) + " is in two shards");
  return {};
}

}  // namespace

result<model_source> read_gguf(const std::filesystem::path& path) {
  TROUPE_TRY(auto file, mapped_file::open(path));
  TROUPE_TRY(auto parsed, parse_gguf(file->bytes(), path.string()));
  model_source source;
  source.format = "GGUF v" + std::to_string(parsed.version);
  source.meta = std::move(parsed.meta);
  source.tensors = std::move(parsed.tensors);
  source.file_bytes = file->bytes().size();
  source.files.push_back(std::move(file));
  TROUPE_TRY(auto count, source.meta->get_or<std::uint32_t>("split.count", 1));
  if (count > 1) TROUPE_CHECK(add_other_shards(path, count, source));
  return source;
}

}  // namespace troupe::model
