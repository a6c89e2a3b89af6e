// What readers and owners say to each other where there is no one-sided read (TCP): UCX active messages, each one
// fragment long, on endpoints that both sides own. Private to transport/ucx. Little endian, trusted by nobody.
//
//   reader                              owner
//     | hello(key, who, worker address)  |     checks the key, then makes an endpoint back
//     |--------------------------------->|
//     |               welcome(client id) |
//     |<---------------------------------|
//     | read(ticket, region, range)      |     checks the range against its regions
//     |--------------------------------->|
//     |            data(ticket, offset)* |     copied into the piece if the ticket is still wanted, else dropped
//     |<---------------------------------|
//     | end(ticket)                      |     of a read that was given up: the owner forgets it, as it does when the
//     |--------------------------------->|     reader's time is over or its connection
//
// A hello without the owner's key (transport/address.hpp) is counted and forgotten: nothing else of it is looked at, and
// nobody is answered. The numbers by which either side knows the other's messages (connection, client, ticket) are
// random, so whoever reaches a port without having been told one cannot take part.
//
// UCX 1.13 has a get over TCP of its own, in software. It is not used: an owner whose reader dies in the middle of
// one aborts (an assertion in ucp_get_req_handler), it reads any address that the wire asks for, and bytes of
// a pull that was given up would still be written.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>

#include "transport/address.hpp"

namespace troupe::transport::ucx {

enum class message : unsigned { hello = 1, welcome = 2, read = 3, data = 4, end = 5 };

struct hello_header {            // payload: the reader's worker address
  hello_key key{};               // key_of() the owner's address
  std::uint64_t from = 0;        // the reader's incarnation
  std::uint64_t connection = 0;  // the reader's number for this connection
};
struct welcome_header {
  std::uint64_t connection = 0;
  std::uint64_t client = 0;  // the owner's number for this reader
};
struct read_header {
  std::uint64_t client = 0, ticket = 0, offset = 0, bytes = 0;
  std::uint32_t region = 0;
  std::uint32_t within_ms = 0;  // after that the reader does not want it any more
};
struct end_header {
  std::uint64_t client = 0, ticket = 0;
};
struct data_header {  // payload: bytes of the piece from `offset` on, in order
  std::uint64_t ticket = 0, offset = 0;
  std::uint32_t refused = 0, unused = 0;
};

// A payload is a whole number of checksum blocks and fits one fragment of the 128 KiB that UCX is set to.
inline constexpr std::size_t data_chunk = 126 * 1024;

template <class Header>
std::optional<Header> parse(const void* bytes, std::size_t size) {
  if (size != sizeof(Header)) return std::nullopt;
  Header header;
  std::memcpy(&header, bytes, sizeof header);
  return header;
}

}  // namespace troupe::transport::ucx
