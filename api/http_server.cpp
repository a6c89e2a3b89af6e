#include "api/http_server.hpp"

#include <sys/resource.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <mutex>
#include <thread>

#include "api/http_connection.hpp"

namespace troupe::api {
namespace {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;

// Refusals beyond max_connections that are still answered; the next ones are closed without a word.
constexpr std::size_t max_refusals = 64;

// A server of a thousand connections needs more descriptors than many shells give by default.
void raise_descriptor_limit(std::uint32_t connections) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, connections + max_refusals + 256);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

class asio_server : public http_server {
 public:
  asio_server(const http_server_options& options, std::shared_ptr<http_handler> handler)
      : options_(options),
        handler_(std::move(handler)),
        acceptor_(asio::make_strand(*context_)),
        retry_(acceptor_.get_executor()) {}
  ~asio_server() override { stop(); }

  result<void> listen() {
    boost::system::error_code code;
    tcp::resolver resolver(acceptor_.get_executor());
    const auto found =
        resolver.resolve(options_.host == "localhost" ? "127.0.0.1" : options_.host,
                         std::to_string(options_.port), tcp::resolver::passive, code);
    if (code || found.empty())
      return fail(ec::invalid_argument,
                  "--host '" + options_.host + "' is no address or name of this machine");
    const tcp::endpoint endpoint = *found.begin();
    const std::string where = options_.host + ":" + std::to_string(options_.port);
    acceptor_.open(endpoint.protocol(), code);
    if (!code) acceptor_.set_option(tcp::acceptor::reuse_address(true), code);
    if (!code) acceptor_.bind(endpoint, code);
    if (!code) acceptor_.listen(1024, code);
    if (code == asio::error::address_in_use)
      return fail(ec::address_in_use, "--port " + std::to_string(options_.port) + ": " + where +
                                          " is in use by another program; choose another port");
    if (code)
      return fail(ec::io_error,
                  "--host, --port: cannot listen on " + where + ": " + code.message());
    port_ = acceptor_.local_endpoint(code).port();
    raise_descriptor_limit(options_.max_connections);
    accept();
    for (unsigned i = 0; i < std::max(1u, options_.threads); ++i)
      threads_.emplace_back([this] { context_->run(); });
    return {};
  }

  std::uint16_t port() const override { return port_; }
  std::size_t connections() const override { return *open_; }

  void stop() override {
    if (std::exchange(stopped_, true)) return;
    asio::post(acceptor_.get_executor(), [this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      retry_.cancel();
    });
    {
      std::lock_guard lock(mutex_);
      for (auto& weak : known_)
        if (auto c = weak.lock()) c->shut();
    }
    // All that is left ends by itself now; the bound is for what a handler may still be doing.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (*open_ > 0 && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    context_->stop();
    for (auto& t : threads_) t.join();
    threads_.clear();
  }

 private:
  void accept() {
    acceptor_.async_accept(asio::make_strand(*context_),
                           [this](const boost::system::error_code& code, tcp::socket socket) {
                             if (!acceptor_.is_open()) return;
                             if (code) return pause();
                             admit(std::move(socket));
                             accept();
                           });
  }

  // Out of descriptors or memory: look again a little later instead of spinning.
  void pause() {
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([this](const boost::system::error_code& code) {
      if (!code && acceptor_.is_open()) accept();
    });
  }

  void admit(tcp::socket socket) {
    boost::system::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    socket.set_option(asio::socket_base::keep_alive(true), ignored);
    const std::size_t open = *open_;
    if (open >= options_.max_connections + max_refusals) return;
    auto c = std::make_shared<connection>(context_, std::move(socket), options_, handler_, open_);
    {
      std::lock_guard lock(mutex_);
      std::erase_if(known_, [](const auto& weak) { return weak.expired(); });
      known_.push_back(c);
    }
    if (open >= options_.max_connections)
      c->refuse(http_error(503, "The server has too many connections."));
    else
      c->start();
  }

  const http_server_options options_;
  const std::shared_ptr<http_handler> handler_;
  const std::shared_ptr<std::atomic<std::size_t>> open_ =
      std::make_shared<std::atomic<std::size_t>>(0);
  const std::shared_ptr<asio::io_context> context_ = std::make_shared<asio::io_context>();
  // Handlers may still post when the last socket is closed.
  const asio::executor_work_guard<asio::io_context::executor_type> work_{context_->get_executor()};
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  std::uint16_t port_ = 0;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<connection>> known_;
  bool stopped_ = false;
};

}  // namespace

result<std::unique_ptr<http_server>> http_server::start(const http_server_options& options,
                                                        std::shared_ptr<http_handler> handler) {
  auto server = std::make_unique<asio_server>(options, std::move(handler));
  TROUPE_CHECK(server->listen());
  return server;
}

}  // namespace troupe::api
