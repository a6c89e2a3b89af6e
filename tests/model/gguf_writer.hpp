// Writes GGUF v3 files for tests, valid ones and, through its raw parts, hostile ones. Header only,
// any room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "model/metadata.hpp"
#include "model/tensor.hpp"

namespace troupe::testing {

class byte_writer {
 public:
  template <class T>
  byte_writer& put(T value) {
    const auto* at = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), at, at + sizeof value);
    return *this;
  }
  byte_writer& put_string(std::string_view text) {
    put<std::uint64_t>(text.size());
    return put_raw(std::as_bytes(std::span(text)));
  }
  byte_writer& put_raw(std::span<const std::byte> raw) {
    bytes.insert(bytes.end(), raw.begin(), raw.end());
    return *this;
  }
  std::vector<std::byte> bytes;
};

// Every field is public so that a test can break exactly one.
class gguf_writer {
 public:
  std::uint32_t version = 3;
  std::uint32_t alignment = 32;
  std::uint64_t extra_keys = 0, extra_tensors = 0;  // claimed in the header, never written

  struct tensor_entry {
    std::string name;
    std::uint32_t type;
    std::vector<std::uint64_t> shape;  // contiguous dimension first
    std::uint64_t offset;
    std::uint32_t dimensions;  // as written; shape.size() when valid
  };
  std::vector<tensor_entry> tensors;
  byte_writer keys;
  std::uint64_t key_count = 0;
  std::vector<std::byte> data;

  // Keys and tensors that are dropped when they are added, for a test that puts its own in their
  // place.
  std::set<std::string, std::less<>> omitted;

  byte_writer& key(std::string_view name, model::value_type type) {
    if (omitted.contains(name)) return dropped_;
    ++key_count;
    return keys.put_string(name).put(static_cast<std::uint32_t>(type));
  }
  void add(std::string_view name, std::uint32_t value) {
    key(name, model::value_type::u32).put(value);
  }
  void add(std::string_view name, float value) { key(name, model::value_type::f32).put(value); }
  void add(std::string_view name, bool value) {
    key(name, model::value_type::boolean).put<std::uint8_t>(value);
  }
  void add(std::string_view name, std::string_view value) {
    key(name, model::value_type::string).put_string(value);
  }
  void add(std::string_view name, const char* value) { add(name, std::string_view(value)); }
  void add(std::string_view name, const std::vector<std::string>& values) {
    auto& out = key(name, model::value_type::array);
    out.put(static_cast<std::uint32_t>(model::value_type::string))
        .put<std::uint64_t>(values.size());
    for (const auto& value : values) out.put_string(value);
  }
  void add(std::string_view name, const std::vector<std::int32_t>& values) {
    auto& out = key(name, model::value_type::array);
    out.put(static_cast<std::uint32_t>(model::value_type::i32)).put<std::uint64_t>(values.size());
    out.put_raw(std::as_bytes(std::span(values)));
  }
  void add_tensor(std::string name, model::tensor_type type, std::vector<std::uint64_t> shape,
                  std::span<const std::byte> content) {
    if (omitted.contains(name)) return;
    const auto dimensions = static_cast<std::uint32_t>(shape.size());
    tensors.push_back({std::move(name), static_cast<std::uint32_t>(type), std::move(shape),
                       data.size(), dimensions});
    data.insert(data.end(), content.begin(), content.end());
    data.resize((data.size() + alignment - 1) / alignment * alignment);
  }

  std::vector<std::byte> finish() const {
    byte_writer out;
    out.put_raw(std::as_bytes(std::span("GGUF", 4))).put(version);
    out.put<std::uint64_t>(tensors.size() + extra_tensors)
        .put<std::uint64_t>(key_count + extra_keys);
    out.put_raw(keys.bytes);
    for (const auto& t : tensors) {
      out.put_string(t.name).put(t.dimensions);
      for (auto extent : t.shape) out.put(extent);
      out.put(t.type).put(t.offset);
    }
    out.bytes.resize((out.bytes.size() + alignment - 1) / alignment * alignment);
    out.put_raw(data);
    return std::move(out.bytes);
  }

 private:
  byte_writer dropped_;
};

inline void write_file(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path.string());
}

inline void write_file(const std::filesystem::path& path, std::string_view text) {
  write_file(path, std::as_bytes(std::span(text)));
}

// A fresh directory, removed with all that is in it.
class temporary_directory {
 public:
  temporary_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "troupe-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("cannot make a temporary directory");
    path_ = pattern;
  }
  ~temporary_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  temporary_directory(const temporary_directory&) = delete;
  temporary_directory& operator=(const temporary_directory&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace troupe::testing
