#include "model/gguf_write.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

namespace troupe::model {
namespace {

constexpr std::uint64_t alignment = 32;  // GGUF's own where the file names none

// A file that is not there until publish().
class new_file {
 public:
  static result<new_file> create(const std::filesystem::path& path) {
    new_file f;
    f.final_ = path;
    f.temporary_ = path;
    f.temporary_ += ".part-" + std::to_string(::getpid());
    f.fd_ = ::open(f.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (f.fd_ < 0) return f.failed("cannot be created");
    return f;
  }
  new_file(new_file&& o) noexcept
      : final_(std::move(o.final_)),
        temporary_(std::move(o.temporary_)),
        fd_(std::exchange(o.fd_, -1)),
        size_(o.size_),
        pending_(std::move(o.pending_)) {}
  new_file& operator=(new_file&&) = delete;
  ~new_file() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }

  result<void> write(std::span<const std::byte> bytes) {
    size_ += bytes.size();
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    if (pending_.size() < (std::size_t{1} << 20)) return {};
    return flush();
  }
  std::uint64_t size() const { return size_; }

  result<void> publish() {
    TROUPE_CHECK(flush());
    if (::fsync(fd_) != 0) return failed("cannot be written");
    if (::rename(temporary_.c_str(), final_.c_str()) != 0) return failed("cannot be renamed to");
    ::close(std::exchange(fd_, -1));
    return {};
  }

 private:
  new_file() = default;
  result<void> flush() {
    for (std::size_t done = 0; done < pending_.size();) {
      const auto n = ::write(fd_, pending_.data() + done, pending_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return failed("cannot be written");
      done += static_cast<std::size_t>(n);
    }
    pending_.clear();
    return {};
  }
  tl::unexpected<error> failed(const char* what) const {
    const int why = errno;
    return fail(ec::io_error,
                "'" + final_.string() + "' " + what + ": " + std::generic_category().message(why));
  }

  std::filesystem::path final_, temporary_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
  std::vector<std::byte> pending_;
};

class header {
 public:
  template <class T>
  void number(T value) {
    const auto* at = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), at, at + sizeof value);
  }
  void text(std::string_view s) {
    number<std::uint64_t>(s.size());
    raw(std::as_bytes(std::span(s.data(), s.size())));
  }
  void raw(std::span<const std::byte> r) { bytes.insert(bytes.end(), r.begin(), r.end()); }
  void type(value_type t) { number(static_cast<std::uint32_t>(t)); }

  void value(const metadata_value& v) {
    type(v.type);
    if (v.type == value_type::string) return text(v.text);
    if (v.type != value_type::array) return raw(v.bytes);
    type(v.element);
    number<std::uint64_t>(v.count());
    if (v.element != value_type::string) return raw(v.bytes);
    for (const auto s : v.strings) text(s);
  }
  std::vector<std::byte> bytes;
};

std::uint64_t padding(std::uint64_t size, std::uint64_t to) {
  return (to - size % to) % to;
}

// Keys and values; how many.
std::uint64_t write_values(header& h, const metadata& meta, const metadata_changes& changes) {
  std::uint64_t count = 0;
  for (const auto& [key, value] : meta.values()) {
    if (changes.left_out.contains(key) || changes.numbers.contains(key) ||
        changes.texts.contains(key) || changes.lists.contains(key))
      continue;
    h.text(key);
    h.value(value);
    ++count;
  }
  for (const auto& [key, value] : changes.numbers) {
    h.text(key);
    h.type(value_type::u32);
    h.number(value);
    ++count;
  }
  for (const auto& [key, value] : changes.texts) {
    h.text(key);
    h.type(value_type::string);
    h.text(value);
    ++count;
  }
  for (const auto& [key, list] : changes.lists) {
    h.text(key);
    h.type(value_type::array);
    h.type(value_type::u32);
    h.number<std::uint64_t>(list.size());
    h.raw(std::as_bytes(std::span(list)));
    ++count;
  }
  return count;
}

result<std::uint64_t> alignment_of(const metadata& meta) {
  TROUPE_TRY(const auto asked, meta.get_or<std::uint64_t>("general.alignment", alignment));
  return asked == 0 ? alignment : asked;
}

}  // namespace

result<std::uint64_t> write_gguf(const std::filesystem::path& path, const metadata& meta,
                                 const metadata_changes& changes,
                                 const std::vector<gguf_tensor>& tensors) {
  TROUPE_TRY(const std::uint64_t align, alignment_of(meta));
  header values, head;
  const std::uint64_t count = write_values(values, meta, changes);
  head.raw(std::as_bytes(std::span("GGUF", 4)));
  head.number<std::uint32_t>(3);
  head.number<std::uint64_t>(tensors.size());
  head.number<std::uint64_t>(count);
  head.raw(values.bytes);
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> sizes;
  for (const auto& t : tensors) {
    TROUPE_TRY(sizes.emplace_back(), stored_bytes(t.entry));
    head.text(t.entry.name);
    head.number(t.entry.dimensions);
    for (std::uint32_t d = 0; d < t.entry.dimensions; ++d) head.number(t.entry.shape[d]);
    head.number(t.entry.raw_type);
    head.number(offset);
    offset += sizes.back() + padding(sizes.back(), align);
  }
  TROUPE_TRY(auto file, new_file::create(path));
  const std::vector<std::byte> zeros(align);
  TROUPE_CHECK(file.write(head.bytes));
  TROUPE_CHECK(file.write(std::span(zeros).first(padding(file.size(), align))));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::uint64_t begin = file.size();
    TROUPE_CHECK(
        tensors[i].bytes([&](std::span<const std::byte> piece) { return file.write(piece); }));
    if (file.size() - begin != sizes[i])
      return fail(ec::internal, tensors[i].entry.name + ": its bytes are not those of its shape");
    TROUPE_CHECK(file.write(std::span(zeros).first(padding(sizes[i], align))));
  }
  TROUPE_CHECK(file.publish());
  return file.size();
}

}  // namespace troupe::model
