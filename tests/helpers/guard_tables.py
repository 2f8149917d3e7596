"""URLs that lead inside, in every spelling, and URLs that only look so."""


def _words(text: str) -> list[str]:
    return text.split()


REFUSED_URLS = _words("""
http://127.0.0.1/ http://127.1/ http://127.0.1/ http://127.255.255.254/ http://127.0.0.1./
http://2130706433/ http://017700000001/ http://0x7f000001/ http://0x7f.1/ http://0x7f.0.0.1/
http://0x7F.0x0.0x0.0x1/ http://0177.0.0.1/ http://0177.0.0.01/ http://0177.1/ http://0x7f.0.1/
http://127.0.0.0x1/ http://127.0.00.1/ http://00000177.0.0.1/ http://1%327.0.0.1/
http://%31%32%37.0.0.1/ http://127%2e0%2e0%2e1/ http://%30x7f.1/ http://127。0。0。1/
http://１２７.0.0.1/ http://①②⑦.0.0.1/ http://①②⑦。⓪。⓪。①/ http://0／ http://0/ http://0.0.0.0/
http://00/ http://0x0/ http://0.0/ http://0.0.0.1/ http://0.255.255.255/ http:\\\\127.0.0.1\\
http:/127.0.0.1/ http:127.0.0.1 http:///127.0.0.1/ http://user@127.0.0.1/
http://example.org@127.0.0.1/ http://example.org:80@127.0.0.1/ http://127.0.0.1:8080/
http://127.0.0.1#@example.org/ http://127.0.0.1?@example.org/ http://127.0.0.1\\@example.org/
http://[::1]/ http://[0:0:0:0:0:0:0:1]/ http://[::0001]/ http://[::]/ http://[0::0]/
http://[::127.0.0.1]/ http://[::7f00:1]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/
http://[0:0:0:0:0:ffff:127.0.0.1]/ http://[::FFFF:0:0]/ http://[::ffff:a00:1]/
http://[::ffff:169.254.169.254]/ http://[::ffff:a9fe:a9fe]/ http://[::ffff:192.168.1.1]/
http://[::ffff:100.64.0.1]/ http://[::ffff:0:127.0.0.1]/ http://[::8.8.8.8]/ http://10.0.0.1/
http://10.255.255.255/ http://10.1/ http://167772161/ http://0xa000001/ http://012.0.0.1/
http://0xa.0.0.1/ http://172.16.0.1/ http://172.31.255.255/ http://172.16.1/ http://2886729729/
http://0xac100001/ http://192.168.0.1/ http://192.168.255.255/ http://192.168.1/
http://192.11010049/ http://3232235521/ http://0xc0a80001/ http://0300.0250.0.1/
http://169.254.169.254/ http://169.254.43518/ http://169.16689662/ http://2852039166/
http://0xa9fea9fe/ http://0xa9.0xfe.0xa9.0xfe/ http://0251.0376.0251.0376/ http://169.254.0.1/
http://169.254.169.254.:80/ http://169.254.170.2/ http://169.254.255.255/ http://168.63.129.16/
http://100.64.0.1/ http://100.100.100.200/ http://100.127.255.255/ http://192.0.0.1/
http://192.0.0.8/ http://192.0.0.170/ http://192.0.0.192/ http://192.0.2.1/ http://192.0.2.255/
http://192.88.99.1/ http://198.18.0.1/ http://198.19.255.255/ http://198.51.100.1/
http://203.0.113.1/ http://203.0.113.255/ http://224.0.0.1/ http://224.0.0.251/
http://239.255.255.250/ http://239.255.255.255/ http://240.0.0.1/ http://250.1.2.3/
http://255.255.255.254/ http://255.255.255.255/ http://4294967295/ http://0xffffffff/
http://037777777777/ http://[fe80::1]/ http://[fe80::a9fe:a9fe]/ http://[febf::1]/
http://[fec0::1]/ http://[feff::1]/ http://[fc00::1]/ http://[fd00::1]/ http://[fd00:ec2::254]/
http://[fdff:ffff::1]/ http://[ff00::1]/ http://[ff02::1]/ http://[ff02::fb]/ http://[ff0e::1]/
http://[100::1]/ http://[100:0:0:1::1]/ http://[2001::1]/
http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/ http://[2001:0:7f00:1::]/
http://[2001:0:808:808::f7f7:f7f7]/ http://[2001:2::1]/ http://[2001:10::1]/ http://[2001:20::1]/
http://[2001:30::1]/ http://[2001:1ff:ffff::1]/ http://[2001:db8::1]/
http://[2001:0db8:85a3::8a2e:370:7334]/ http://[2001:db8:ffff::]/ http://[2002:7f00:1::]/
http://[2002:7f00:1::1]/ http://[2002:a00:1::]/ http://[2002:a9fe:a9fe::]/
http://[2002:c0a8:101::]/ http://[2002:808:808::]/ http://[3ffe::1]/ http://[3fff::1]/
http://[3fff:fff::1]/ http://[64:ff9b::127.0.0.1]/ http://[64:ff9b::7f00:1]/
http://[64:ff9b::a00:1]/ http://[64:ff9b::169.254.169.254]/ http://[64:ff9b::c0a8:101]/
http://[64:ff9b::]/ http://[64:ff9b::ffff:ffff]/ http://[64:ff9b::e000:1]/ http://[64:ff9b:1::1]/
http://[64:ff9b:1::808:808]/ http://[64:ff9b:1:ffff::7f00:1]/ http://[64:ff9b:2::1]/
http://[1::1]/ http://[200::1]/ http://[400::1]/ http://[4000::1]/ http://[5f00::1]/
http://[8000::1]/ http://[e000::1]/ http://[::2]/ http://[::ffff:0:8.8.8.8]/ http://8.8.8.8:22/
http://8.8.8.8:25/ http://example.org:6379@8.8.8.8:6667/ https://8.8.8.8:53/ http://8.8.8.8:0/
http://example.org:23/ http://example.org:10080/ http://localhost/ http://LocalHost./
http://localhost.localdomain/ http://loopback/ http://a.localhost/ http://metadata/
http://metadata.google.internal/ http://kubernetes.default.svc.cluster.local/ http://db/
http://db../
http://printer.local/ http://router.lan/ http://nas.home.arpa/ http://wiki.corp/
http://ldap.private/
http://intranet/ http://wiki.intranet./ http://fritz.home/ http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/ http://local%68ost/
http://lo\u00adcalhost/ http://metadata。google。internal/
http://[::ffff:0a00:0001]/ http://[0000:0000:0000:0000:0000:ffff:7f00:0001]/
http://[2001:470:0:1:0:5efe:10.0.0.1]/ http://[2001:470:0:1:200:5efe:127.0.0.1]/
http://[2001:470:0:1:0:5efe:a9fe:a9fe]/ http://0x7F000001:80/
http://①⑥⑨.②⑤④.①⑥⑨.②⑤④/ http://169.254.169.254%00.example.org/ http://[::1%25lo]/
http://[::1%lo]/ http://[fe80::1%25eth0]/ http://0xa9.254.0251.254/ http://127.0.0.1%0d%0a/
""")

ALLOWED_URLS = _words("""
http://8.8.8.8/ http://1.1.1.1/ https://9.9.9.9/ http://0x08080808/ http://134744072/
http://8.8.2056/ http://9.255.255.255/ http://11.0.0.0/ http://100.63.255.255/ http://100.128.0.0/
http://126.255.255.255/ http://128.0.0.1/ http://169.253.255.255/ http://169.255.0.1/
http://172.15.255.255/ http://172.32.0.1/ http://191.255.255.255/ http://192.0.1.1/
http://192.0.3.1/ http://192.167.255.255/ http://192.169.0.1/ http://198.17.255.255/
http://198.20.0.1/ http://198.51.101.1/ http://203.0.112.255/ http://203.0.114.1/
http://223.255.255.255/ http://[::ffff:8.8.8.8]/ http://[64:ff9b::8.8.8.8]/
http://[2001:4860:4860::8888]/ http://[2606:4700:4700::1111]/ http://[2001:200::1]/
http://[2001:db7::1]/ http://[2001:db9::1]/ http://[2003::1]/ http://[2a00:1450::1]/
http://[3ffd::1]/ http://[2620:fe::fe]/ http://8.8.8.8:8080/ http://8.8.8.8:8443/
http://10.example.org/ http://127.example.org/ http://192.168.example.org/
http://example.org/v10.2/ http://example.org/2010.html http://example.org/127.0.0.1/
http://example.org/?url=http://127.0.0.1/ http://localhost.example.org/
http://169-254-169-254.example.org/ http://example.org/#127.0.0.1 http://127.0.0.1.example.org/
http://xn--bcher-kva.example/ http://127.0.0.1%2f@example.org/ http://bücher.example/
http://local.example.org/ http://10.0.0.1.example/
http://internal.example.org/ http://localhost.example/ http://corp.example.com/
http://homelan.example/
http://notlocal.example/ http://0x7f.example.org/ http://2130706433.example.org/
http://user:127.0.0.1@example.org/ http://example.org/@127.0.0.1 http://example.org/%2f%2f127.0.0.1/
http://127.example.com/ http://a.127.0.0.1.example.com./ http://example.org.:8080/ http://8.8.8.8./
http://[2001:470:0:1:0:5efe:8.8.8.8]/ http://169.254.169.254.example/
http://example.org:65535/ https://example.org:80/ http://172.16.example.org/10.0.0.1/192.168.0.1
""")
