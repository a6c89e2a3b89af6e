#include "transport/address.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "base/hash.hpp"
#include "base/secrets.hpp"
#include "transport/fence.hpp"

namespace troupe::transport {
namespace {

constexpr std::string_view magic = "TRPA";
constexpr std::uint16_t version = 3;
constexpr std::size_t max_field = 64 * 1024, max_regions = 256;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_string(std::string& out, const std::string& text) {
  TROUPE_ASSERT(text.size() <= max_field);
  put(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}
void put_region(std::string& out, const published_region& r) {
  put(out, r.base);
  put(out, r.bytes);
  put(out, static_cast<std::uint8_t>(r.kind));
  put_string(out, r.key);
  put(out, r.share.process);
  put(out, r.share.descriptor);
  put(out, r.share.inode);
  put_string(out, r.device_share);
}

std::uint64_t sum_of(std::string_view text) {
  return hash64({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

// Reads fields until one does not fit; then `ok` is false and everything reads as zero.
struct reader {
  std::string_view left;
  bool ok = true;

  template <class T>
  T get() {
    T value{};
    if (left.size() < sizeof value) {
      ok = false;
      return value;
    }
    std::memcpy(&value, left.data(), sizeof value);
    left.remove_prefix(sizeof value);
    return value;
  }
  std::string get_string() {
    auto size = get<std::uint32_t>();
    if (size > max_field || size > left.size()) ok = false;
    if (!ok) return {};
    std::string text(left.substr(0, size));
    left.remove_prefix(size);
    return text;
  }
  published_region get_region() {
    published_region r;
    r.base = get<std::uint64_t>();
    r.bytes = get<std::uint64_t>();
    auto kind = get<std::uint8_t>();
    r.key = get_string();
    r.share.process = get<std::int32_t>();
    r.share.descriptor = get<std::int32_t>();
    r.share.inode = get<std::uint64_t>();
    r.device_share = get_string();
    if (kind > static_cast<std::uint8_t>(memory_kind::cuda)) ok = false;
    if (r.base + r.bytes < r.base) ok = false;
    r.kind = static_cast<memory_kind>(kind);
    return r;
  }
};

std::string link_target(const char* file) {
  char target[128];
  ssize_t n = ::readlink(file, target, sizeof target);
  return n > 0 ? std::string(target, static_cast<std::size_t>(n)) : "?";
}

}  // namespace

std::string encode(const node_address& address) {
  TROUPE_ASSERT(address.regions.size() <= max_regions);
  std::string out(magic);
  put(out, version);
  put(out, raw(address.owner));
  put(out, address.nonce);
  put_string(out, address.host);
  put_string(out, address.worker);
  put(out, static_cast<std::uint16_t>(address.regions.size()));
  for (const published_region& r : address.regions) put_region(out, r);
  put(out, sum_of(out));
  return out;
}

result<node_address> decode_address(std::string_view text) {
  constexpr std::size_t head = magic.size() + sizeof version, tail = sizeof(std::uint64_t);
  if (text.size() < head + tail || text.substr(0, magic.size()) != magic)
    return fail(ec::invalid_argument, "not the address of a transport");
  reader in{text.substr(magic.size())};
  if (auto theirs = in.get<std::uint16_t>(); theirs != version)
    return fail(ec::unsupported, "the peer's transport speaks version " + std::to_string(theirs) +
                                     ", this one " + std::to_string(version) +
                                     ": run the same release on both");
  std::uint64_t stated;
  std::memcpy(&stated, text.data() + text.size() - tail, tail);
  if (stated != sum_of(text.substr(0, text.size() - tail)))
    return fail(ec::invalid_argument, "the transport address is damaged");
  in.left.remove_suffix(tail);

  node_address address;
  address.owner = incarnation{in.get<std::uint64_t>()};
  address.nonce = in.get<hello_key>();
  address.host = in.get_string();
  address.worker = in.get_string();
  auto count = in.get<std::uint16_t>();
  if (count > max_regions) in.ok = false;
  for (std::size_t i = 0; in.ok && i < count; ++i) address.regions.push_back(in.get_region());
  if (!in.ok || !in.left.empty())
    return fail(ec::invalid_argument, "the transport address is malformed");
  return address;
}

hello_key key_of(const node_address& address, std::string_view cluster_secret) {
  std::string text = "troupe transport hello";
  put(text, raw(address.owner));
  put(text, address.nonce);
  text += address.worker;
  const auto whole = keyed_hash(cluster_secret, text);
  hello_key key;
  std::copy_n(whole.begin(), key.size(), key.begin());
  return key;
}

std::string host_identity() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return boot + ' ' + link_target("/proc/self/ns/pid") + ' ' + link_target("/proc/self/ns/ipc");
}

result<void> check_pieces(const pull_request& request, std::uint64_t remote_bytes,
                          const region& local) {
  if (request.pieces.empty()) return fail(ec::invalid_argument, "a pull of nothing");
  auto fits = [](std::uint64_t offset, std::uint64_t bytes, std::uint64_t size) {
    return offset <= size && bytes <= size - offset;
  };
  for (std::size_t i = 0; i < request.pieces.size(); ++i) {
    const piece& p = request.pieces[i];
    auto refuse = [&](const char* why) {
      return fail(ec::invalid_argument, "piece " + std::to_string(i) + ' ' + why);
    };
    if (p.bytes == 0) return refuse("is empty");
    if (request.checksum && p.bytes <= fence_bytes) return refuse("has no room for a fence");
    if (!fits(p.remote_offset, p.bytes, remote_bytes)) return refuse("leaves the peer's region");
    if (!fits(p.local_offset, p.bytes, local.bytes)) return refuse("leaves the local region");
  }
  return {};
}

}  // namespace troupe::transport
