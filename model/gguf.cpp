#include "model/gguf.hpp"

#include <algorithm>
#include <unordered_set>

#include "model/byte_cursor.hpp"

namespace troupe::model {

namespace {

constexpr std::uint32_t magic = 0x46554747;  // "GGUF"

class gguf_parser {
 public:
  gguf_parser(std::span<const std::byte> bytes, const std::string& source,
              const gguf_limits& limits)
      : bytes_(bytes), source_(source), limits_(limits), cursor_(bytes, source) {}

  result<gguf_file> parse() {
    file_.meta = std::make_shared<metadata>(source_);
    TROUPE_CHECK(header());
    for (std::uint64_t i = 0; i < keys_; ++i) TROUPE_CHECK(key_value());
    TROUPE_CHECK(alignment());
    file_.tensors.reserve(tensors_);
    offsets_.reserve(tensors_);
    for (std::uint64_t i = 0; i < tensors_; ++i) TROUPE_CHECK(tensor_info());
    TROUPE_CHECK(place_tensors());
    return std::move(file_);
  }

 private:
  tl::unexpected<error> corrupt(std::string detail) const {
    return fail(ec::corrupt_file, source_ + ": " + std::move(detail));
  }

  result<void> header() {
    TROUPE_TRY(auto found, cursor_.read<std::uint32_t>("the magic number"));
    if (found != magic)
      return fail(ec::corrupt_file,
                  source_ +
                      ": is not a GGUF file (it does not begin with 'GGUF'); give a .gguf file "
                      "or a Hugging Face directory");
    TROUPE_TRY(file_.version, cursor_.read<std::uint32_t>("the version"));
    if ((file_.version & 0xffff) == 0 && file_.version != 0)
      return fail(
          ec::unsupported,
          source_ + ": is a big-endian GGUF file; convert the model on a little-endian machine");
    if (file_.version != 2 && file_.version != 3)
      return fail(ec::unsupported, source_ + ": has GGUF version " + std::to_string(file_.version) +
                                       ", this build reads 2 and 3; convert the model again");
    TROUPE_TRY(tensors_, cursor_.read<std::uint64_t>("the tensor count"));
    TROUPE_TRY(keys_, cursor_.read<std::uint64_t>("the key count"));
    // The smallest entries: a key of one byte, a type and one byte; a name of one byte, one
    // dimension, type, offset.
    TROUPE_CHECK(plausible("tensor count", tensors_, limits_.tensors, 8 + 1 + 4 + 8 + 4 + 8));
    return plausible("key count", keys_, limits_.keys, 8 + 1 + 4 + 1);
  }

  // Before anything is reserved for `count` entries of at least `least` bytes each.
  result<void> plausible(std::string_view what, std::uint64_t count, std::uint64_t limit,
                         std::uint64_t least) const {
    if (count > limit)
      return corrupt("the " + std::string(what) + " is " + std::to_string(count) +
                     ", more than the limit of " + std::to_string(limit));
    if (count > cursor_.remaining() / least)
      return corrupt("the " + std::string(what) + " is " + std::to_string(count) +
                     ", more than the file's " + std::to_string(bytes_.size()) +
                     " bytes can hold; it is truncated or damaged, download it again");
    return {};
  }

  result<void> key_value() {
    TROUPE_TRY(auto key, cursor_.string(limits_.key_bytes, "a key"));
    if (key.empty())
      return corrupt("a key at byte " + std::to_string(cursor_.position()) + " is empty");
    TROUPE_TRY(auto raw, cursor_.read<std::uint32_t>("the value type of a key"));
    const auto type = static_cast<value_type>(raw);
    bool fresh = false;
    if (type == value_type::string) {
      TROUPE_TRY(auto text,
                 cursor_.string(limits_.string_bytes, "the value of key " + printable(key)));
      fresh = file_.meta->set_string(key, text);
    } else if (type == value_type::array) {
      TROUPE_TRY(fresh, array(key));
    } else if (const auto size = size_of(type); size != 0) {
      TROUPE_TRY(auto value, cursor_.take(size, "the value of key " + printable(key)));
      if (type == value_type::boolean) TROUPE_CHECK(check_bools(key, value));
      fresh = file_.meta->set_number(key, type, value);
    } else {
      return corrupt("the key " + printable(key) + " has value type " + std::to_string(raw) +
                     ", which GGUF does not define");
    }
    if (!fresh) return corrupt("the key " + printable(key) + " appears twice");
    return {};
  }

  result<bool> array(std::string_view key) {
    TROUPE_TRY(auto raw, cursor_.read<std::uint32_t>("the element type of key " + printable(key)));
    TROUPE_TRY(auto count, cursor_.read<std::uint64_t>("the length of key " + printable(key)));
    const auto element = static_cast<value_type>(raw);
    if (element == value_type::string) {
      TROUPE_CHECK(plausible("length of key " + printable(key), count, UINT64_MAX, 8));
      std::vector<std::string_view> values;
      values.reserve(count);
      for (std::uint64_t i = 0; i < count; ++i) {
        TROUPE_TRY(auto text,
                   cursor_.string(limits_.string_bytes, "an element of an array of strings"));
        values.push_back(text);
      }
      return file_.meta->set_strings(key, values);
    }
    if (element == value_type::array)
      return fail(ec::unsupported, source_ + ": the key " + printable(key) +
                                       " is an array of arrays, which no known model uses");
    const auto size = size_of(element);
    if (size == 0)
      return corrupt("the key " + printable(key) + " has element type " + std::to_string(raw) +
                     ", which GGUF does not define");
    TROUPE_CHECK(plausible("length of key " + printable(key), count, UINT64_MAX, size));
    TROUPE_TRY(auto values, cursor_.take(count * size, "the elements of a key"));
    if (element == value_type::boolean) TROUPE_CHECK(check_bools(key, values));
    return file_.meta->set_numbers(key, element, values);
  }

  result<void> check_bools(std::string_view key, std::span<const std::byte> values) const {
    for (std::byte value : values)
      if (value > std::byte{1})
        return corrupt("the key " + printable(key) + " holds a bool that is neither 0 nor 1");
    return {};
  }

  result<void> alignment() {
    TROUPE_TRY(file_.alignment, file_.meta->get_or<std::uint32_t>("general.alignment", 32));
    const auto value = file_.alignment;
    if (value < 8 || value > limits_.alignment || (value & (value - 1)) != 0)
      return corrupt("general.alignment is " + std::to_string(value) +
                     ", not a power of two from 8 to " + std::to_string(limits_.alignment));
    return {};
  }

  result<void> tensor_info() {
    stored_tensor entry;
    TROUPE_TRY(auto name, cursor_.string(limits_.tensor_name_bytes, "a tensor's name"));
    if (name.empty())
      return corrupt("a tensor's name at byte " + std::to_string(cursor_.position()) + " is empty");
    entry.name = name;
    TROUPE_TRY(entry.dimensions,
               cursor_.read<std::uint32_t>("the dimension count of tensor " + printable(name)));
    if (entry.dimensions < 1 || entry.dimensions > 4)
      return corrupt("tensor " + printable(name) + " has " + std::to_string(entry.dimensions) +
                     " dimensions, not 1 to 4");
    for (std::uint32_t i = 0; i < entry.dimensions; ++i) {
      TROUPE_TRY(entry.shape[i],
                 cursor_.read<std::uint64_t>("the dimensions of tensor " + printable(name)));
    }
    TROUPE_TRY(entry.raw_type,
               cursor_.read<std::uint32_t>("the type of tensor " + printable(name)));
    TROUPE_TRY(auto offset, cursor_.read<std::uint64_t>("the offset of tensor " + printable(name)));
    if (offset % file_.alignment != 0)
      return corrupt("tensor " + printable(name) + " has offset " + std::to_string(offset) +
                     ", not a multiple of the alignment " + std::to_string(file_.alignment));
    if (!names_.insert(name).second) return corrupt("tensor " + printable(name) + " appears twice");
    file_.tensors.push_back(std::move(entry));
    offsets_.push_back(offset);
    return {};
  }

  // Gives each tensor its bytes, once the end of the header, and with it the start of the data, is
  // known.
  result<void> place_tensors() {
    const std::uint64_t mask = file_.alignment - 1;
    const std::uint64_t start =
        (cursor_.position() + mask) & ~mask;  // position is at most the file's size: no overflow
    for (std::size_t i = 0; i < file_.tensors.size(); ++i) {
      auto& entry = file_.tensors[i];
      // A number of our own, for weights whose scales stand in another tensor: no GGUF file has it.
      if (entry.raw_type == static_cast<std::uint32_t>(tensor_type::f8_e4m3))
        return fail(ec::unsupported, source_ + ": tensor " + printable(entry.name) + " has type " +
                                         std::to_string(entry.raw_type) +
                                         ", which is no ggml type; convert the model again");
      auto bytes = stored_bytes(entry);
      if (!bytes) return fail(bytes.error().code, source_ + ": " + bytes.error().detail);
      std::uint64_t begin = 0, end = 0;
      if (__builtin_add_overflow(start, offsets_[i], &begin) ||
          __builtin_add_overflow(begin, *bytes, &end) || end > bytes_.size())
        return corrupt("tensor " + printable(entry.name) + " (" + std::to_string(*bytes) +
                       " bytes at offset " + std::to_string(offsets_[i]) +
                       ") ends past the end of the file (" + std::to_string(bytes_.size()) +
                       " bytes); it is truncated or damaged, download it again");
      entry.data = bytes_.subspan(begin, *bytes);
    }
    std::vector<const stored_tensor*> order;
    order.reserve(file_.tensors.size());
    for (const auto& entry : file_.tensors) order.push_back(&entry);
    std::sort(order.begin(), order.end(),
              [](auto* a, auto* b) { return a->data.data() < b->data.data(); });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (order[i - 1]->data.data() + order[i - 1]->data.size() > order[i]->data.data())
        return corrupt("tensors " + printable(order[i - 1]->name) + " and " +
                       printable(order[i]->name) + " overlap");
    return {};
  }

  std::span<const std::byte> bytes_;
  const std::string& source_;
  const gguf_limits& limits_;
  byte_cursor cursor_;
  gguf_file file_;
  std::uint64_t keys_ = 0, tensors_ = 0;
  std::vector<std::uint64_t> offsets_;          // of file_.tensors, from the start of the data
  std::unordered_set<std::string_view> names_;  // views of bytes_
};

}  // namespace

result<gguf_file> parse_gguf(std::span<const std::byte> bytes, const std::string& source,
                             const gguf_limits& limits) {
  return gguf_parser(bytes, source, limits).parse();
}

}  // namespace troupe::model
